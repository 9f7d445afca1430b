"""The check of GPUs, as far as a machine without one can tell."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import pytest
import torch
from taped_cuda import TapedCuda

from prefrl.agents.actor_critic import sac
from prefrl.agents.value_based import dqn
from prefrl.nn import update
from prefrl.nn.flat import clip_factor
from prefrl.run.recipes import RECIPES
from scripts import SCRIPTS, refused


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_gpu", SCRIPTS / "check_gpu.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["check_gpu"] = module
    spec.loader.exec_module(module)
    return module


def test_every_recipe_is_among_the_cases(script: ModuleType) -> None:
    assert {recipe for recipe, _ in script.CASES.values()} == set(RECIPES)


def test_the_same_device_twice_is_alike(script: ModuleType, tmp_path: Path) -> None:
    script.CheckGPU(out=tmp_path, device="cpu", cases=("dqn huber", "ppo, 3 learners"), num_envs=(8, 16),
                    seconds=1e-3).run()  # fmt: skip
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["parity"] == {
        name: {"difference": 0.0, "error": None} for name in ("dqn huber", "ppo, 3 learners")
    }
    assert result["all_alike"]
    assert set(result["throughput"]) == set(script.WORK)
    for rates in result["throughput"].values():
        assert set(rates) == {"8", "16"}
        assert min(rates.values()) > 0


def test_what_differs_is_seen(script: ModuleType) -> None:
    cpu = torch.device("cpu")
    recipe, settings = script.CASES["ppo"]
    start, there = script.trained(recipe, settings, cpu)
    _, other = script.trained(recipe, {**settings, "agent.learning_rate": 3.3e-4}, cpu, start)
    assert script.largest_difference(there, there) == 0.0
    assert script.largest_difference(there, other) > 10 * script.TOLERANCE
    values = {"a": torch.tensor([1.0, -4.0])}
    assert script.largest_difference(values, {"a": torch.tensor([1.0, -3.0])}) == 0.25
    with pytest.raises(ValueError, match=r"different tensors: \['b'\]"):
        script.largest_difference(values, {**values, "b": values["a"]})
    with pytest.raises(ValueError, match=r"a has shape \(1,\)"):
        script.largest_difference(values, {"a": torch.zeros(1)})


def test_an_agent_that_fails_does_not_stop_the_others(script: ModuleType) -> None:
    cases: dict[str, Any] = {"ppo": ("ppo", {"env_id": "prefrl/Pendulum-v0", "agent.n_steps": 0})}
    with mock.patch.object(script, "CASES", cases):
        found = script.parity("ppo", torch.device("cpu"))
    assert found["difference"] is None
    assert "n_steps is 0" in found["error"]


@pytest.mark.parametrize("name", ["dqn hl_gauss", "sac"])
def test_steps_as_graphs(script: ModuleType, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On tapes that stand for CUDA graphs they are alike, and can be timed; without, it is said why not."""
    cpu = torch.device("cpu")
    assert set(script.GRAPHS) <= set(script.CASES)
    assert "cuda_graph is True and device 'cpu'" in script.graph_parity(name, cpu)["error"]
    tapes = TapedCuda()
    monkeypatch.setattr(update, "cuda", tapes)
    for module in (update, dqn, sac):
        monkeypatch.setattr(module, "check_cuda_graph", lambda wanted, device: None)
    monkeypatch.setattr(update, "cut_", lambda gradient, norm: gradient.mul_(clip_factor(gradient, norm)))
    found = script.graph_parity(name, cpu)
    assert found["error"] is None
    assert found["difference"] < script.TOLERANCE
    assert tapes.graphs[0].replays > 10
    recipe, settings = script.STEPPING["sac"]
    few = {**settings, "agent.gradient_steps": 1, "total_timesteps": 96}
    with mock.patch.object(script, "STEPPING", {"sac": (recipe, few)}):
        assert script.graph_speed("sac", cpu)["median"] > 0.0


def test_without_cuda_it_says_so(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with mock.patch.object(torch.cuda, "is_available", return_value=False):
        script.CheckGPU(out=tmp_path / "none").run()
    assert "no CUDA device" in capsys.readouterr().out
    assert not (tmp_path / "none").exists()


def test_refusals() -> None:
    assert "cases has 'sarsa'; there are" in refused("check_gpu.py", "--cases", "sarsa")
    assert "num_envs" in refused("check_gpu.py", "--num-envs", "0")
    assert "seconds is 0.0" in refused("check_gpu.py", "--seconds", "0")
