"""Public names: loaded when first used, and known to type checkers with their types."""

import ast
import inspect
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import prefrl
import prefrl.agents

MODULES = {"prefrl": prefrl, "prefrl.agents": prefrl.agents}
LITERAL = {"prefrl": {"__version__", "learn"}, "prefrl.agents": set()}
"""Names that the module has itself."""


@pytest.mark.parametrize("module", MODULES)
def test_type_checkers_see_the_names_that_there_are(module: str) -> None:
    tree = ast.parse(inspect.getsource(MODULES[module]))
    (block,) = (
        node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    )
    seen = {alias.asname for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen | LITERAL[module] == set(MODULES[module].__all__)


@pytest.mark.parametrize("module", MODULES)
def test_every_name_can_be_had(module: str) -> None:
    for name in MODULES[module].__all__:
        assert getattr(MODULES[module], name) is not None
    assert set(dir(MODULES[module])) >= set(MODULES[module].__all__)
    with pytest.raises(AttributeError, match="has no attribute 'Nonsense'"):
        MODULES[module].Nonsense  # noqa: B018


def test_agents_are_the_same_objects_by_both_names() -> None:
    for name in prefrl.agents.__all__:
        assert getattr(prefrl, name) is getattr(prefrl.agents, name)


NONSENSE = """
    import gymnasium as gym
    import prefrl
    from prefrl import DQN, DQNConfig, Segments, load
    from prefrl.envs.wrappers import ReplaceReward

    DQNConfig(gamma="high")  # error: arg-type
    DQN(gym.make("CartPole-v1"), config=3)  # error: arg-type
    prefrl.evaluate(3, gym.make("CartPole-v1"), episodes=1, seed=0)  # error: arg-type
    load(3)  # error: arg-type
    prefrl.make_device("prefrl/CartPole-v0")  # error: call-arg
    Segments.nonsense()  # error: attr-defined
    prefrl.Nonsense  # error: attr-defined
    ReplaceReward(3, lambda obs, action, next_obs: 0.0)  # error: arg-type
    number: int = DQN.load("file").num_timesteps
    text: str = DQN.load("file").num_timesteps  # error: assignment
"""


@pytest.mark.slow
def test_a_type_checker_reports_nonsense(project_root: Path, tmp_path: Path) -> None:
    code = textwrap.dedent(NONSENSE).lstrip("\n")
    (tmp_path / "nonsense.py").write_text(code)
    result = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file", str(project_root / "pyproject.toml"),
         "--cache-dir", str(tmp_path / "cache"), "--hide-error-context", str(tmp_path / "nonsense.py")],
        cwd=project_root, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    expected = {
        (number, line.rpartition("# error: ")[2])
        for number, line in enumerate(code.splitlines(), 1)
        if "# error: " in line
    }
    found = set()
    for line in result.stdout.splitlines():
        if "nonsense.py:" in line and ": error:" in line:
            found.add((int(line.split("nonsense.py:")[1].split(":")[0]), line.rpartition("[")[2].rstrip("]")))
    assert found == expected, result.stdout + result.stderr


def test_wrappers_are_all_in_one_place() -> None:
    from prefrl.envs import wrappers

    names = ["DualPriceAction", "DiscreteTimeTask", "ReplaceReward", "VectorReplaceReward", "AgentsAsRows"]
    assert set(names) <= set(wrappers.__all__)
    assert all(isinstance(getattr(wrappers, name), type) for name in wrappers.__all__)
