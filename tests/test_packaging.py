"""What is packed, what it depends on, and that a wheel works outside the checkout."""

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PYTHON_VERSIONS = ("3.10", "3.11", "3.12", "3.13")
LINKS = {"envs": "../envs", "agents": "../agents"}


@pytest.fixture(scope="session")
def pyproject(project_root: Path) -> dict[str, Any]:
    return tomllib.loads((project_root / "pyproject.toml").read_text("utf-8"))


def folders_with_python(prefrl: Path) -> set[str]:
    """Packages on disk, behind the links too."""
    packages = set()
    for folder, _, files in os.walk(prefrl, followlinks=True):
        if any(name.endswith(".py") for name in files):
            packages.add(".".join(Path(folder).relative_to(prefrl.parent).parts))
    return packages


def test_packages_are_the_folders_on_disk(pyproject: dict[str, Any], project_root: Path) -> None:
    listed = pyproject["tool"]["setuptools"]["packages"]
    assert len(listed) == len(set(listed))
    assert set(listed) == folders_with_python(project_root / "prefrl")


def test_every_package_has_an_init(pyproject: dict[str, Any], project_root: Path) -> None:
    for package in pyproject["tool"]["setuptools"]["packages"]:
        assert (project_root / package.replace(".", "/") / "__init__.py").is_file(), package


@pytest.mark.parametrize("name", LINKS)
def test_links_into_the_tree(name: str, project_root: Path) -> None:
    link = project_root / "prefrl" / name
    assert link.is_symlink()
    assert str(link.readlink()) == LINKS[name]


def test_version_is_stated_once_and_the_same(pyproject: dict[str, Any], project_root: Path) -> None:
    import prefrl

    version = pyproject["project"]["version"]
    assert prefrl.__version__ == version
    assert f"\nversion: {version}\n" in (project_root / "CITATION.cff").read_text("utf-8")


# Pins ------------------------------------------------------------


def requirements(pyproject: dict[str, Any]) -> list[Requirement]:
    """Direct dependencies: the library's and its extras'."""
    project = pyproject["project"]
    texts = project["dependencies"] + [
        t for extra in project["optional-dependencies"].values() for t in extra
    ]
    return [r for r in map(Requirement, texts) if canonicalize_name(r.name) != "prefrl"]


def pins(project_root: Path) -> list[Requirement]:
    lines = (project_root / "constraints.txt").read_text("utf-8").splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


def applies(requirement: Requirement, python_version: str) -> bool:
    environment = {"python_version": python_version, "python_full_version": f"{python_version}.0"}
    return requirement.marker is None or requirement.marker.evaluate(environment)


@pytest.mark.parametrize("python_version", PYTHON_VERSIONS)
def test_every_direct_dependency_has_one_pin_in_its_range(
    pyproject: dict[str, Any], project_root: Path, python_version: str
) -> None:
    wanted = {canonicalize_name(r.name): r for r in requirements(pyproject) if applies(r, python_version)}
    pinned = [pin for pin in pins(project_root) if applies(pin, python_version)]
    assert sorted(canonicalize_name(pin.name) for pin in pinned) == sorted(wanted)
    for pin in pinned:
        (specifier,) = pin.specifier
        assert specifier.operator == "==", f"{pin} is no exact pin"
        assert wanted[canonicalize_name(pin.name)].specifier.contains(specifier.version), str(pin)


def test_python_versions_are_the_supported_ones(pyproject: dict[str, Any]) -> None:
    prefix = "Programming Language :: Python :: 3."
    listed = [c.removeprefix(prefix) for c in pyproject["project"]["classifiers"] if c.startswith(prefix)]
    assert tuple(f"3.{minor}" for minor in listed) == PYTHON_VERSIONS
    assert pyproject["project"]["requires-python"] == f">={PYTHON_VERSIONS[0]}"


# The wheel -------------------------------------------------------


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    env = {**os.environ, **environment}
    result = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout


def contents(wheel: Path) -> dict[str, str]:
    """File name -> hash of its bytes."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: hashlib.sha256(archive.read(name)).hexdigest() for name in archive.namelist()}


@pytest.fixture(scope="module")
def clone(project_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clean clone: what is committed, and nothing else."""
    folder = tmp_path_factory.mktemp("clone") / "prefrl"
    run("git", "clone", "-q", project_root, folder, cwd=folder.parent)
    return folder


@pytest.fixture(scope="module")
def dist(clone: Path) -> Path:
    """Folder with the sdist and the wheel, both built from the clone."""
    run(sys.executable, "-m", "build", "--sdist", "--wheel", "--outdir", "dist", cwd=clone)
    return clone / "dist"


def only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", LINKS)
def test_links_are_committed_as_links(clone: Path, name: str) -> None:
    assert run("git", "ls-files", "--stage", f"prefrl/{name}", cwd=clone).startswith("120000 ")
    assert str((clone / "prefrl" / name).readlink()) == LINKS[name]


@pytest.mark.slow
def test_wheel_contents(dist: Path, clone: Path, pyproject: dict[str, Any]) -> None:
    names = set(contents(only(dist, "*.whl")))
    version = pyproject["project"]["version"]
    assert {name.split("/")[0] for name in names} == {"prefrl", f"prefrl-{version}.dist-info"}
    packages = [clone / p.replace(".", "/") for p in pyproject["tool"]["setuptools"]["packages"]]
    modules = {str(file.relative_to(clone)) for folder in packages for file in folder.glob("*.py")}
    packed = {name for name in names if name.startswith("prefrl/")}
    assert packed == modules | {"prefrl/py.typed"}
    assert f"prefrl-{version}.dist-info/licenses/LICENSE" in names


@pytest.mark.slow
def test_sdist_builds_the_same_wheel(dist: Path, tmp_path: Path) -> None:
    with tarfile.open(only(dist, "*.tar.gz")) as archive:
        assert not [member.name for member in archive if member.issym() or member.islnk()]
    shutil.unpack_archive(only(dist, "*.tar.gz"), tmp_path)
    unpacked = only(tmp_path, "prefrl-*")
    run(sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path / "again", cwd=unpacked)
    assert contents(only(tmp_path / "again", "*.whl")) == contents(only(dist, "*.whl"))


SMOKE = """
import gymnasium as gym, prefrl, prefrl.envs, sys
assert prefrl.__file__.startswith(sys.prefix), prefrl.__file__
assert prefrl.envs.__file__.startswith(sys.prefix), prefrl.envs.__file__
env = gym.make("prefrl.envs:prefrl/Delivery-v0")
obs, _ = env.reset(seed=0)
env.action_space.seed(0)
for _ in range(50):
    obs, reward, terminated, truncated, _ = env.step(env.action_space.sample())
    assert env.observation_space.contains(obs)
    if terminated or truncated:
        env.reset()
print("smoke passed")
"""


@pytest.mark.slow
def test_wheel_works_outside_the_checkout(dist: Path, tmp_path: Path) -> None:
    venv = tmp_path / "venv"
    run(sys.executable, "-m", "venv", venv, cwd=tmp_path)
    python = venv / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", "--no-deps", only(dist, "*.whl"), cwd=tmp_path)
    # The dependencies come from the environment of the tests. The editable prefrl there stays unseen: a .pth
    # file starts its finder, and .pth files are read in the new environment's own folder only.
    site_packages = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path)
    (Path(site_packages.strip()) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")

    assert "smoke passed" in run(python, "-c", SMOKE, cwd=tmp_path)
    command = venv / "bin" / "prefrl"
    assert "train" in run(command, "--help", cwd=tmp_path)
    assert "q_learning" in run(command, "list", cwd=tmp_path)
