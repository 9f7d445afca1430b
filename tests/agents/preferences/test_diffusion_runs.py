"""Diffusion policies that are tuned: what all methods have in common, files, and runs."""

import json
import runpy
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from resuming import assert_same, crash_at, new_folder
from tuned_diffusion import OBS, RING, SMALL, clone_of, tuned_of

import prefrl
from prefrl import cli
from prefrl.agents import (
    DiffusionDPO,
    DiffusionDRO,
    DiffusionDROConfig,
    DiffusionPolicy,
    DiffusionPolicyConfig,
    SelfNPO,
    SelfNPOConfig,
)
from prefrl.data import load_preferences, save_preferences, save_transitions
from prefrl.run.collect import collect_mixture, compare_mixtures
from prefrl.run.loop import learn
from prefrl.run.study.mixed_data import mixed_pendulum

KINDS = pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (DiffusionDRO, {"replay_refreshes": 2}), (DiffusionDRO, {"sampler": "ddpm", "guidance": 0.5}),
        (DiffusionDPO, {}), (SelfNPO, {}), (SelfNPO, {"form": "unconditional", "truncated_steps": 2}),
    ],
)  # fmt: skip


@KINDS
def test_cloning_comes_first_and_is_the_reference(kind: Any, settings: Any) -> None:
    agent = tuned_of(kind, **settings).learn(10)
    cloned = agent.act(OBS, deterministic=True)
    if settings.get("form") != "unconditional":
        same = DiffusionPolicyConfig(**SMALL, averaging=agent.config.averaging,
                                     sampler=settings.get("sampler", "ddim"))  # fmt: skip
        clone = DiffusionPolicy(RING, same, dataset=collect_mixture(RING, 500), device="cpu").learn(10)
        assert torch.equal(clone.act(OBS, deterministic=True), cloned)
    before = {name: value.clone() for name, value in agent.average.state_dict().items()}
    agent.learn(8)
    assert_same(agent.reference.state_dict(), before)
    assert not torch.equal(agent.act(OBS, deterministic=True), cloned)


@KINDS
def test_resumed_equals_uninterrupted(kind: Any, settings: Any, tmp_path: Path) -> None:
    whole, folder = tuned_of(kind, **settings).learn(40), new_folder(tmp_path / "run")
    with pytest.raises(RuntimeError, match="crash"):
        learn(tuned_of(kind, **settings), 40, folder=folder, checkpoint_every=15, callback=crash_at(31))
    resumed = learn(tuned_of(kind, **settings), 40, folder=folder, checkpoint_every=15, resume=True)
    assert resumed.num_timesteps == 40
    assert_same(resumed.state_dict(), whole.state_dict())
    assert torch.equal(resumed.act(OBS), whole.act(OBS))


@KINDS
def test_saved_agents_act_alike_and_learn_on(kind: Any, settings: Any, tmp_path: Path) -> None:
    agent = tuned_of(kind, **settings).learn(17)
    agent.save(tmp_path / "agent.pt")
    again = prefrl.load(tmp_path / "agent.pt", device="cpu")
    assert type(again) is kind
    assert torch.equal(agent.act(OBS), again.act(OBS))
    with pytest.raises(ValueError, match=r"dataset is None|there are no"):
        again.update()
    given: dict[str, Any] = {"dataset": collect_mixture(RING, 500)}
    if kind is not SelfNPO:
        given["preferences"] = compare_mixtures(RING, 100)
    learned = kind.load(tmp_path / "agent.pt", RING, device="cpu", **given)
    learned.update()
    assert learned.num_timesteps == 18


def test_what_does_not_suit_is_refused() -> None:
    clone, data = clone_of(1), collect_mixture(RING, 50)
    none: dict[str, Any] = {**SMALL, "cloning_steps": 0, "averaged": 8}
    with pytest.raises(ValueError, match="cloning_steps is 5000; it must be 0 where a clone is given"):
        DiffusionDRO(RING, DiffusionDROConfig(**SMALL, averaged=8), clone=clone, device="cpu")
    with pytest.raises(ValueError, match=r"hidden is \(8,\) and the clone's \(16, 16\); they must be equal"):
        DiffusionDRO(RING, DiffusionDROConfig(**{**none, "hidden": (8,)}), clone=clone, device="cpu")
    with pytest.raises(TypeError, match="clone is a str; it must be a DiffusionPolicy"):
        DiffusionDRO(RING, DiffusionDROConfig(**none), clone="me", device="cpu")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="demonstrations and preferences are both given"):
        DiffusionDRO(RING, DiffusionDROConfig(**none), demonstrations=data, clone=clone, device="cpu",
                     preferences=compare_mixtures(RING, 9))  # fmt: skip
    with pytest.raises(ValueError, match="averaged is 7; it must divide batch_size, 32"):
        DiffusionDROConfig(**{**none, "averaged": 7})
    with pytest.raises(ValueError, match="there is no clone; give DiffusionDRO"):
        DiffusionDRO(RING, DiffusionDROConfig(**none), demonstrations=data, device="cpu").update()
    with pytest.raises(ValueError, match="truncated_steps is 4; it must be below sampling_steps, 4"):
        SelfNPOConfig(**SMALL, form="unconditional", truncated_steps=4)
    positive = DiffusionDRO(RING, DiffusionDROConfig(**none), clone=clone, device="cpu")
    with pytest.raises(ValueError, match="clone and positive are both given"):
        SelfNPO(RING, SelfNPOConfig(**SMALL), clone=clone, positive=positive, device="cpu")


# Runs --------------------------------------------------------------------------------------------------

SCRIPT = str(Path(__file__).parents[3] / "scripts" / "train_diffusion_policy.py")
FEW = ["--hidden", "8", "8", "--batch-size", "16", "--noise-steps", "6", "--sampling-steps", "3",
       "--eval-episodes", "2", "--final-episodes", "3", "--quiet", "--device", "cpu"]  # fmt: skip
TUNED = [*FEW, "--total-timesteps", "20", "--cloning-steps", "10"]


def script(*arguments: object) -> int:
    with patch.object(sys, "argv", [SCRIPT, *map(str, arguments)]), pytest.raises(SystemExit) as stop:
        runpy.run_path(SCRIPT, run_name="__main__")
    return int(stop.value.code or 0)


@pytest.mark.parametrize(
    ("method", "more"),
    [
        ("clone", [*FEW, "--total-timesteps", "20"]), ("dro", [*TUNED, "--averaged", "8"]),
        ("dpo", TUNED), ("self_npo", TUNED),
    ],
)  # fmt: skip
def test_the_ring_knows_what_to_learn_from(method: str, more: list[str], tmp_path: Path) -> None:
    given = "--env-id", "prefrl/Ring-v0", "--method", method, "--seed", 1, "--out", tmp_path / "run"
    assert script(*given, *more) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert {"final_return", "drawn_return", "seconds"} <= set(result)
    assert 0.0 <= result["expert_mass"] <= 1.0


@pytest.mark.parametrize("method", ["dro", "dpo"])
def test_a_run_from_files_goes_on_with_its_own_copy(method: str, tmp_path: Path) -> None:
    data, pairs = mixed_pendulum(1, 20, length=10)
    files = tmp_path / "data.npz", tmp_path / "pairs.npz"
    save_transitions(files[0], data)
    save_preferences(files[1], pairs)
    out, other = tmp_path / "run", tmp_path / "other"
    given = ["--env-id", "prefrl/Pendulum-v0", "--method", method, "--dataset", files[0], "--preferences",
             files[1], *TUNED, *(["--averaged", "8"] if method == "dro" else [])]  # fmt: skip
    assert script(*given, "--out", out) == 0
    assert torch.equal(load_preferences(out / "preferences.npz").labels, pairs.labels)
    whole = prefrl.load(out / "agent.pt", device="cpu")

    kind = type(whole)
    update = kind.update

    def crash(self: Any) -> Any:
        if self.num_timesteps == 15:
            raise RuntimeError("crash")
        return update(self)

    with patch.object(kind, "update", crash):
        assert script(*given, "--checkpoint-every", "4", "--out", other) != 0
    assert not (other / "result.json").exists()
    files[1].unlink()
    assert cli.main(["resume", str(other)]) == 0
    resumed = prefrl.load(other / "agent.pt", device="cpu")
    assert_same(resumed.state_dict(), whole.state_dict())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ([], "dataset is None; it must be a file of transitions to learn from: --dataset FILE"),
        (["--dataset"], "preferences is None; it must be a file of comparisons to be tuned by"),
        (["--cloning-steps", "20"], "cloning_steps is 20; it must lie above 0 and below total_timesteps, 20"),
    ],
)
def test_missing_files_are_named(
    more: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if more == ["--dataset"]:
        save_transitions(tmp_path / "data.npz", mixed_pendulum(1, 20, length=10).transitions)
        more = [*more, str(tmp_path / "data.npz")]
    out = tmp_path / "run"
    given = ["--env-id", "prefrl/Pendulum-v0", *TUNED, "--averaged", "8", *more, "--out", str(out)]
    assert cli.main(["train", "diffusion_dro", *given]) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not out.exists()
