"""Policies from pairs of segments, from the command line: where comparisons come from, what comes out."""

import json
from pathlib import Path
from typing import Any, get_args

import gymnasium as gym
import pytest
import torch

from prefrl.cli import main
from prefrl.data import load_preferences, save_transitions
from prefrl.run.collect import collect_transitions
from prefrl.run.recipes.preferences.labels import LabelModelName


def test_a_run_that_would_only_clone_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "preference_optimization", "--total-timesteps", "1000"]) == 2
    assert "after 1000 cloning_steps nothing would be learned" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("loss", "extra"), [("ipo", {}), ("inpo", {}), ("dpo", {"num-learners": 2})], ids=str
)
def test_a_tree_ends_at_the_exact_minimiser(loss: str, extra: dict[str, int], tmp_path: Path) -> None:
    """From the command line: the largest difference of a probability to what other methods say."""
    settings = {
        "env-id": "prefrl/TokenTree-v0", "env.depth": 2, "loss": loss, "beta": 0.5, "cloning-steps": 0,
        "total-timesteps": 500, **extra,
    }  # fmt: skip
    flags = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    command = ["preference_optimization", *flags, "--out", str(tmp_path / "run")]
    assert main(["train", *command]) == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["policy_error"] < 1e-6
    assert result["value"] <= result["optimal_value"]
    assert result["kl_to_reference"] > 0.0
    assert result["pair_accuracy"] == 1.0


def trained(tmp_path: Path, **settings: Any) -> dict[str, Any]:
    """Return the result of a run from the command line."""
    given = {"cloning-steps": 5, "total-timesteps": 30, "eval-episodes": 2, **settings}
    flags = [word for name, value in given.items() for word in (f"--{name}", *map(str, _several(value)))]
    assert main(["train", "preference_optimization", *flags, "--out", str(tmp_path / "run")]) == 0
    result: dict[str, Any] = json.loads((tmp_path / "run" / "result.json").read_text())
    return result


def _several(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def test_a_teacher_compares_uniform_actions_where_there_are_no_data(tmp_path: Path) -> None:
    result = trained(tmp_path, **{"env-id": "Pendulum-v1", "num-pairs": 30, "segment-length": 10})
    kept = load_preferences(tmp_path / "run" / "preferences.npz")
    assert len(kept) == 30
    assert (kept.first.lengths == 10).all()
    assert kept.metadata["teacher"] == "logistic"
    assert result["final_return"] < 0.0
    assert result["optimal_value"] is None
    assert result["kl_to_reference"] >= 0.0


@pytest.mark.parametrize(
    ("env_id", "more"),
    [
        ("prefrl/Delivery-v0", {}),
        ("prefrl/Delivery-v0", {"policy": "mlp", "hidden": 8}),
        ("prefrl/TokenTree-v0", {"policy": "mlp", "hidden": 8}),
        ("prefrl/ThreeGoals-v0", {"hidden": 8}),
    ],
    ids=str,
)
def test_what_is_known_exactly_is_said(env_id: str, more: dict[str, Any], tmp_path: Path) -> None:
    """Of networks as of tables, and of what knows a table but shows vectors (ThreeGoals) nothing."""
    result = trained(tmp_path, **{"env-id": env_id, "num-pairs": 20, **more})
    if env_id == "prefrl/ThreeGoals-v0":
        assert "value" not in result
        assert result["optimal_value"] is None
    else:
        assert result["value"] < result["optimal_value"]
        assert result["policy_error"] is None


def test_a_policy_that_is_certain_has_a_divergence(tmp_path: Path) -> None:
    """Robust DPO falls for ever on answers, until sequences have the probability 0."""
    flags = {"loss": "robust_dpo", "label-noise": 0.4, "num-pairs": 20, "env.depth": 2, "learning-rate": 50.0}
    result = trained(tmp_path, **flags, **{"cloning-steps": 0, "total-timesteps": 100})
    assert 0.0 < result["kl_to_reference"] <= 2.2  # log 9


def test_several_learners_are_evaluated_again(tmp_path: Path) -> None:
    trained(tmp_path, **{"env.depth": 2, "num-learners": 2})
    assert main(["evaluate", str(tmp_path / "run"), "--episodes", "3"]) == 0
    found = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert found["episodes"] == 6


def test_a_teacher_compares_segments_of_a_file(tmp_path: Path) -> None:
    env = gym.make("Pendulum-v1")
    data = collect_transitions(None, env, 400, epsilon=1.0)
    save_transitions(tmp_path / "data.npz", data)
    flags = {
        "env-id": "Pendulum-v1",
        "dataset": tmp_path / "data.npz",
        "teacher": "noiseless",
        "num-pairs": 20,
    }
    trained(tmp_path, **flags)
    kept = load_preferences(tmp_path / "run" / "preferences.npz")
    assert torch.isin(kept.first.actions.flatten(), data.actions.flatten()).all()
    assert kept.metadata["teacher"] == "noiseless"


@pytest.mark.parametrize("source", ["sequences", "table", "segments"])
def test_pairs_are_chosen_by_what_was_answered(source: str, tmp_path: Path) -> None:
    data = tmp_path / "data.npz"
    save_transitions(data, collect_transitions(None, gym.make("CartPole-v1"), 300, epsilon=1.0))
    flags: dict[str, Any] = {
        "sequences": {"env.depth": 2, "query": "active_edges"},
        "table": {"env.depth": 2, "teacher": "noiseless", "segment-length": 2, "query": "g_optimal"},
        "segments": {"env-id": "CartPole-v1", "dataset": data, "segment-length": 5, "query": "bald"},
    }[source]
    trained(tmp_path, **flags, **{"num-pairs": 16})
    kept = load_preferences(tmp_path / "run" / "preferences.npz")
    assert len(kept) == 16
    assert kept.metadata["query"] == flags["query"]
    trained(tmp_path / "plain", **{**flags, "query": "uniform"}, **{"num-pairs": 16})
    assert "query" not in load_preferences(tmp_path / "plain" / "run" / "preferences.npz").metadata


@pytest.mark.parametrize("name", [*get_args(LabelModelName), "dropout_filter ensemble_vote"])
def test_label_models_change_what_is_learned_from(name: str, tmp_path: Path) -> None:
    flags = {"env.depth": 2, "num-pairs": 60, "label-noise": 0.2, "seed": 3}
    plain = trained(tmp_path / "plain", **flags)
    result = trained(tmp_path, **flags, **{"label-model": name.split()})
    before, after = (
        load_preferences(path / "run" / "preferences.npz") for path in (tmp_path / "plain", tmp_path)
    )
    assert result["value"] != plain["value"]
    assert result["policy_error"] is None
    if name == "dynamic_labels":
        config = json.loads((tmp_path / "run" / "config.json").read_text())
        assert config["config"]["label_model"] == ["dynamic_labels"]
        assert torch.equal(before.labels, after.labels), "they move while the policy learns"
    elif name == "robust_flips":
        torch.testing.assert_close(after.labels, (before.labels - 0.2) / 0.6)
    else:
        assert len(after) == (30 if "dropout_filter" in name else 60)
        assert not torch.equal(before.labels, after.labels)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--label-model", "robust_flips", "--loss", "robust_dpo"], "both correct labels for flips"),
        (["--preferences", "file.npz", "--dataset", "data.npz"], "preferences and dataset are both given"),
        (["--label-model", "dynamic_labels", "--loss", "ipo"], "label_rate is 0.01; it must be 0 for 'ipo'"),
        (
            ["--preferences", "file.npz", "--segment-length", "3"],
            "preferences and segment_length are both given",
        ),
        (["--preferences", "file.npz", "--query", "bald"], "query is 'bald' and preferences are given"),
        (["--query", "bald"], "query is 'bald', and num_pairs None, which is all pairs"),
        (["--query", "active_edges", "--teacher", "noiseless"], "drawn at random do not come again: choose"),
        (["--segment-length", "3"], "segment_length is 3; whole sequences are compared"),
        (["--env-id", "prefrl/NetworkRevenue-v0"], "allowed are Discrete and Box spaces; give comparisons"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "preference_optimization", *flags, "--out", str(tmp_path / "run")]) == 2
    assert message in capsys.readouterr().err
