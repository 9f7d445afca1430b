"""Small runs of every recipe, written before the families: their settings and first checkpoints."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from prefrl.run.settings import FORMAT

ARCHIVE = Path(__file__).parents[1] / "run" / "before_families.tar.xz"

CASES = (
    "continuous_control", "distributional_dp", "dqn", "dual_mirror_descent", "heron_ppo", "martingale",
    "mbpo", "preference_rl_dqn", "preference_rl_sac", "q_learning", "regret", "sac", "self_play_dqn",
    "self_play_matrix", "stock_dqn",
)  # fmt: skip

NEWER: dict[str, dict[str, Any]] = {
    "ppo_learners": {
        "recipe": "ppo",
        "config": {
            "env_id": "prefrl/CartPole-v0", "num_envs": 4, "num_learners": 2, "total_timesteps": 1_600,
            "eval_every": 400, "eval_episodes": 4,
            "agent": {"hidden": [16], "n_steps": 30, "batch_size": 32, "schedule": "linear",
                      "normalize_observations": True, "learning_rate": [1e-3, 3e-4]},
        },
    },
    "preference_rl_ppo": {
        "recipe": "preference_rl",
        "config": {
            "env_id": "prefrl/Pendulum-v0", "agent": "ppo", "num_envs": 4, "total_timesteps": 1_600,
            "eval_every": 400, "eval_episodes": 4, "num_labels": 30, "sessions": 3, "segment_length": 10,
            "agent_args": ["hidden=[16]", "n_steps=30", "batch_size=32", "schedule=linear"],
            "reward": {"members": 2, "hidden": [8], "epochs": 2},
        },
    },
    "oreo": {
        "recipe": "oreo",
        "config": {
            "num_episodes": 200, "total_timesteps": 200, "eval_every": 50, "eval_episodes": 4,
            "final_episodes": 4, "agent": {"cloning_steps": 50, "policy": "network", "hidden": [16]},
        },
    },
    "b_coder": {
        "recipe": "b_coder",
        "config": {
            "env_id": "prefrl/ProgramSynthesis-v0", "env_args": ["depth=3", "prompts=2"],
            "num_programs": 100, "mistakes": 2, "total_timesteps": 400, "eval_every": 100,
            "eval_episodes": 4, "final_episodes": 4,
            "agent": {"cloning_steps": 100, "value_steps": 100, "hidden": [16]},
        },
    },
    "dynamic_choice": {
        "recipe": "dynamic_choice",
        "config": {"num_choices": 3_000, "checkpoint_every": 1, "agent": {"sample_splitting": True}},
    },
    "search_preferences": {
        "recipe": "search_preferences",
        "config": {
            "env_id": "prefrl/TokenTree-v0", "env_args": ["depth=3"], "total_timesteps": 12,
            "eval_every": 4, "eval_episodes": 4,
            "agent": {"simulations": 8, "num_roots": 8, "round_steps": 5, "hidden": [16]},
        },
    },
    "grouped_policy_gradient": {
        "recipe": "grouped_policy_gradient",
        "config": {
            "total_timesteps": 400, "eval_every": 100, "eval_episodes": 4,
            "agent": {"advantage": "bnpo", "success_returns": [1.0], "group_size": 4, "batch_size": 1,
                      "policy": "network", "hidden": [16]},
        },
    },
}  # fmt: skip
"""Small runs of recipes that came after, as their ``config.json`` has them."""


def tensors(state: Any, place: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Yield every tensor of a nested state, with its place."""
    entries = (
        state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list) else ()
    )
    for key, value in entries:
        if isinstance(value, torch.Tensor):
            yield f"{place}.{key}", value
        else:
            yield from tensors(value, f"{place}.{key}")


def begin(case: str, old_runs: Path, run: Path, *, checkpoints: int | None = None) -> Path:
    """Make a run folder with a case's settings, with so many checkpoints of a run in timesteps; return it."""
    newer = json.dumps({**NEWER[case], "format": FORMAT}) if case in NEWER else None
    content = json.loads(newer or (old_runs / case / "config.json").read_text("utf-8"))
    settings = content["config"]
    if settings.get("matrix"):
        settings["matrix"] = str(old_runs / case / "matrix.csv")
    if checkpoints and "total_timesteps" in settings:
        settings["checkpoint_every"] = max(1, settings["total_timesteps"] // checkpoints)
    run.mkdir()
    (run / "config.json").write_text(json.dumps(content), "utf-8")
    return run
