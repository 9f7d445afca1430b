"""Pages made from the code before Sphinx reads: the API, the environments, the recipes, the gallery.

They lie in ``docs/reference`` and are written anew where they have changed, so that Sphinx reads only those.
"""

import inspect
import pkgutil
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import gymnasium as gym
import matplotlib.image
from sphinx.application import Sphinx

import prefrl
import prefrl.envs
import prefrl.functional
from prefrl.config import Settings
from prefrl.run.recipes import RECIPES

FAMILIES = {
    "value_based": "Value-based agents",
    "actor_critic": "Actor-critic agents",
    "returns": "Agents of the whole return distribution",
    "preferences": "Agents that learn from preferences",
    "continuous_time": "Agents in continuous time",
    "choice": "Agents that learn from choices",
    "allocation": "Online allocation",
}
"""Families of agents, in the order of the site."""

PACKAGES = {
    "prefrl.envs.wrappers": "Wrappers of environments",
    "prefrl.data": "Data: transitions, segments, comparisons, files",
    "prefrl.preferences": "Preferences: teachers, models, reward models",
    "prefrl.preferences.general_models": "Models of comparisons that no reward explains",
    "prefrl.preferences.label_models": "Label models",
    "prefrl.preferences.questions": "Questions",
    "prefrl.tabular": "Exact solvers",
    "prefrl.nn": "Networks",
    "prefrl.nn.likelihood_policies": "Policies with likelihoods",
    "prefrl.label.store": "Answers of people",
}
"""Packages whose ``__all__`` is documented, each on a page of its own."""

ENVIRONMENTS = {
    "grids": "Grids",
    "classic_control": "Classic control",
    "diffusions": "Diffusions",
    "allocation": "Online allocation",
    "finite_horizon": "Finite horizons",
    "multi_agent": "Several agents",
    "bandits": "One decision, or a short row of them",
    "minatar": "MinAtar",
}
"""Families of environments."""


def write(path: Path, text: str) -> None:
    """Write a page, if it is another than the one that is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def title(text: str, line: str = "=") -> str:
    """Return a heading in reStructuredText."""
    return f"{text}\n{line * len(text)}\n\n"


def tree(entries: list[str]) -> str:
    """Return a table of contents in reStructuredText."""
    return ".. toctree::\n   :maxdepth: 1\n\n" + "".join(f"   {entry}\n" for entry in entries) + "\n"


# The API ------------------------------------------------------------------------------------------------


def entry(place: str, name: str, value: Any) -> str:
    """Return the directive that documents one name."""
    if inspect.isclass(value):
        # The docstring of settings lists them; so does that of a named tuple or a plain record its fields.
        members = "" if issubclass(value, Settings) else "   :members:\n"
        return f".. autoclass:: {place}.{name}\n{members}   :show-inheritance:\n\n"
    if callable(value) and hasattr(value, "__qualname__"):
        return f".. autofunction:: {place}.{name}\n\n"
    return f".. py:data:: {name}\n   :module: {place}\n   :type: {type(value).__name__}\n\n"


def public(module: str) -> dict[str, Any]:
    """Return what a module offers."""
    offers = import_module(module)
    return {name: getattr(offers, name) for name in offers.__all__ if not name.startswith("__")}


def defined_in(module: Any) -> list[str]:
    """Return the public names that a module defines itself, in the order of its source."""
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]


def agent_pages(folder: Path) -> set[str]:
    """Write a page for each family of agents; return the names on them."""
    names = public("prefrl.agents")
    for family, heading in FAMILIES.items():
        text, before = title(heading), None
        inside = f"prefrl.agents.{family}."
        for name, value in sorted(names.items(), key=lambda item: item[1].__module__):
            if value.__module__.startswith(inside):
                if value.__module__ != before:
                    before = value.__module__
                    text += title(before.removeprefix(inside), "-")
                    text += f".. automodule:: {before}\n\n"
                text += entry("prefrl", name, value)
        write(folder / f"agents_{family}.rst", text)
    return {name for name, value in names.items() if value.__module__.split(".")[2] in FAMILIES}


def api_pages(folder: Path) -> None:
    """Write the pages of every public name."""
    on_pages = agent_pages(folder)
    top = {name: value for name, value in public("prefrl").items() if name not in on_pages}
    text = title("prefrl") + "What is imported from ``prefrl`` itself, besides the agents.\n\n"
    write(folder / "prefrl.rst", text + "".join(entry("prefrl", *item) for item in sorted(top.items())))
    for package, heading in PACKAGES.items():
        names = public(package)
        text = title(heading) + f".. automodule:: {package}\n\n"
        also = sorted(name for name in names if name in top)
        if also:
            text += f"From here also: {', '.join(f':py:obj:`prefrl.{name}`' for name in also)}.\n\n"
        rest = {name: value for name, value in names.items() if name not in top}
        write(folder / f"{package}.rst", text + "".join(entry(package, *item) for item in rest.items()))
    write(
        folder / "prefrl.envs.rst",
        title("Registered environments") + ".. automodule:: prefrl.envs\n   :members:\n\n",
    )
    functional = functional_pages(folder)
    text = title("API reference")
    text += "Every public name. Agents are imported from ``prefrl``, formulas from ``prefrl.functional``.\n\n"
    parts = {
        "Agents": [f"agents_{family}" for family in FAMILIES],
        "Environments and data": ["prefrl", "prefrl.envs", *PACKAGES],
        "Formulas": functional,
    }
    for heading, entries in parts.items():
        text += title(heading, "-") + tree(entries)
    write(folder / "index.rst", text)


def functional_pages(folder: Path) -> list[str]:
    """Write a page for each package of formulas; return the pages' names."""
    modules: dict[str, list[str]] = {}
    for info in pkgutil.walk_packages(prefrl.functional.__path__, "prefrl.functional."):
        if not info.ispkg and not info.name.rpartition(".")[2].startswith("_"):
            family = ".".join(info.name.split(".")[:3]) if info.name.count(".") > 2 else "prefrl.functional"
            modules.setdefault(family, []).append(info.name)
    for family, members in modules.items():
        text = title(family.removeprefix("prefrl.") if family != "prefrl.functional" else "functional")
        for name in members:
            module = import_module(name)
            text += title(name.removeprefix(f"{family}."), "-") + f".. automodule:: {name}\n\n"
            text += "".join(entry(name, each, getattr(module, each)) for each in defined_in(module))
        write(folder / f"{family}.rst", text)
    return sorted(modules)


# Environments -------------------------------------------------------------------------------------------


def picture(env_id: str, path: Path) -> bool:
    """Draw an environment after a few random steps, unless it cannot be drawn; return whether it was."""
    if not path.exists():
        try:
            env = gym.make(env_id, render_mode="rgb_array")
        except ValueError:  # it draws nothing
            return False
        env.reset(seed=0)
        env.action_space.seed(0)
        for _ in range(4):
            *_, terminated, truncated, _ = env.step(env.action_space.sample())
            if terminated or truncated:
                env.reset(seed=0)
                break
        path.parent.mkdir(parents=True, exist_ok=True)
        matplotlib.image.imsave(path, env.render())
        env.close()
    return True


def environment_pages(folder: Path) -> dict[str, list[str]]:
    """Write a page for each family of environments; return the pictures of each."""
    pictures: dict[str, list[str]] = {}
    for family, heading in ENVIRONMENTS.items():
        text = f"# {heading}\n"
        for env_id, registered in prefrl.envs.REGISTRY.items():
            if not registered.place.startswith(f"{family}."):
                continue
            module, _, name = registered.dynamics.partition(":")
            described = inspect.cleandoc(getattr(import_module(module), name).__doc__ or "")
            text += f"\n## {env_id}\n\n"
            stem = env_id.rpartition("/")[2]
            if picture(env_id, folder / "pictures" / f"{stem}.png"):
                text += f"![{env_id}, drawn](pictures/{stem}.png)\n\n"
                pictures.setdefault(family, []).append(env_id)
            text += re.sub(r"^## ", "### ", described, flags=re.MULTILINE) + "\n"
        write(folder / f"{family}.md", text)
    write(
        folder / "index.md",
        "# Environments by family\n\nWhat each environment is, from its own text. "
        "How they are made and used is on [the page of environments](../../environments.md).\n\n"
        "```{toctree}\n" + "\n".join(ENVIRONMENTS) + "\n```\n",
    )
    return pictures


# Commands and gallery -----------------------------------------------------------------------------------


def command_page(folder: Path) -> None:
    """Write what every recipe of ``prefrl train`` can be told."""
    text = "# Recipes and their flags\n\nWhat `prefrl train RECIPE` takes. "
    text += "A setting `batch_size` of the agent is the flag `--batch-size`.\n"
    text += "`prefrl train RECIPE --help` says the same.\n"
    for name in sorted(RECIPES):
        module, _, recipe = RECIPES[name].partition(":")
        kind = getattr(import_module(module), recipe)
        text += (
            f"\n## {name}\n\n{inspect.cleandoc(text_of(kind))}\n\n```{{settings}}\n{module}:{recipe}\n```\n"
        )
    write(folder / "recipes.md", text)


def text_of(kind: Any) -> str:
    """Return a class' own docstring, without the list of its settings."""
    text = vars(kind).get("__doc__") or ""
    return str(getattr(text, "text", text))


def gallery_page(source: Path, pictures: dict[str, list[str]]) -> None:
    """Write the page of pictures: the environments, then every figure with the page that explains it."""
    text = title("Gallery") + title("Environments", "-")
    for family, ids in pictures.items():
        text += title(ENVIRONMENTS[family], "~") + ".. container:: gallery\n\n"
        for env_id in ids:
            stem = env_id.rpartition("/")[2]
            text += figure(
                f"environments/pictures/{stem}.png", env_id, f":doc:`{env_id} <environments/{family}>`"
            )
    text += title("Figures", "-") + ".. container:: gallery\n\n"
    seen = set()
    for page in sorted(source.rglob("*.md")):
        if "reference" in page.relative_to(source).parts or "_build" in page.parts:
            continue
        where = page.relative_to(source).with_suffix("").as_posix()
        for alt, target in re.findall(r"!\[([^\]]+)\]\(([^)]+\.png)\)", page.read_text()):
            path = (page.parent / target).resolve()
            if path.is_relative_to(source) and path not in seen:
                seen.add(path)
                text += figure(f"/{path.relative_to(source).as_posix()}", alt, f":doc:`{alt} </{where}>`")
    write(source / "reference" / "gallery.rst", text)


def figure(path: str, alt: str, caption: str) -> str:
    """Return one picture of the gallery."""
    return f"   .. figure:: {path}\n      :alt: {alt}\n\n      {caption}\n\n"


def make(app: Sphinx) -> None:
    """Write all pages."""
    reference = Path(app.srcdir) / "reference"
    api_pages(reference / "api")
    pictures = environment_pages(reference / "environments")
    command_page(reference)
    gallery_page(Path(app.srcdir), pictures)


def setup(app: Sphinx) -> dict[str, Any]:
    """Write pages before any is read."""
    app.connect("builder-inited", make)
    return {"parallel_read_safe": True}
