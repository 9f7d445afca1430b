"""Networks of segments as preference models: circles, opposite tastes, and agents that learn from them.

Each claim is measured over seeds that nothing was chosen on: docs/preferences/preference_models.md has what
was asked and what was seen. The same command goes on with a study that was stopped.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import torch
from torch import Tensor

import prefrl.envs
from prefrl.agents import PPOConfig, PreferenceRL, PreferenceRLConfig
from prefrl.cli import execute
from prefrl.data import Preferences, Segments
from prefrl.preferences import RewardModelConfig
from prefrl.preferences.general_models import (
    GPMNetworkConfig,
    PALNetworkConfig,
    ThurstoneNetworkConfig,
    make_reward_model,
)
from prefrl.run.flags import parse
from prefrl.run.study.claims import Claim, ClaimStudy

STEPS = 25
"""Of a segment of a pendulum."""


# Circles ------------------------------------------------------------------------------------------------


def options(places: list[int]) -> Segments:
    """Segments of one step, known by the state that they are in."""
    obs = torch.tensor(places)[:, None].expand(-1, 2)
    nothing = torch.zeros(len(places), dtype=torch.int64)
    return Segments(obs, nothing[:, None], nothing + 1, nothing > 0)


def circles(seed: int) -> dict[str, float]:
    """Shares of pairs right, of a circle of three, and of one with an option that beats all of it."""
    round_trip = [(0, 1), (1, 2), (2, 0)]
    spaces = gym.spaces.Discrete(4), gym.spaces.Discrete(1)
    found = {}
    for name, pairs in (("three", round_trip), ("four", [*round_trip, (3, 0), (3, 1), (3, 2)])):
        answers = Preferences.from_labels(
            options([lost for _, lost in pairs]), options([won for won, _ in pairs]), torch.ones(len(pairs))
        )
        fits: dict[str, Any] = {"bootstrap": False, "epochs": 400}
        for label, config in {
            "bradley_terry": RewardModelConfig(**fits),
            "gpm_1": GPMNetworkConfig(**fits, members=1, blocks=1),
            "gpm_1_of_4": GPMNetworkConfig(**fits, members=4, blocks=1),
            "gpm_2": GPMNetworkConfig(**fits, members=1, blocks=2),
        }.items():
            model = make_reward_model(*spaces, config, seed=seed)
            model.fit(answers)
            found[f"{name}_{label}"] = float(model.accuracy(answers))
    return found


# Two annotators of opposite tastes ----------------------------------------------------------------------


def swings(seed: int, count: int = 400) -> Segments:
    """Segments of pendulums that are pushed about at random, one each."""
    env: Any = prefrl.envs.make_device("prefrl/Pendulum-v0", count, device="cpu")
    generator = torch.Generator().manual_seed(seed)
    obs, acted, push = [env.reset(seed=seed)[0]], [], torch.zeros(count, 1)
    for _ in range(STEPS):
        push = 0.8 * push + 1.2 * torch.randn(count, 1, generator=generator)
        acted.append(push.clamp(-2.0, 2.0))
        obs.append(env.step(acted[-1])[0])
    nothing = torch.zeros(count, dtype=torch.int64)
    return Segments(torch.stack(obs, 1), torch.stack(acted, 1), nothing + STEPS, nothing > 0)


def answered(segments: Segments, count: int, seed: int, noise: bool) -> Preferences:
    """Comparisons by one who likes pendulums that turn to the left, and one who likes the others.

    Answers are logistic in 5 times the difference of mean speeds, in their standard deviations.
    """
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(len(segments), (count,), generator=generator)
    second = (first + torch.randint(1, len(segments), (count,), generator=generator)) % len(segments)
    worth = segments.obs[:, :-1, 2].mean(1).double()
    who = torch.randint(2, (count,), generator=generator)
    margin = (1 - 2 * who) * 5.0 * (worth[second] - worth[first]) / worth.std()
    drawn = torch.rand(count, generator=generator, dtype=torch.float64) < torch.sigmoid(margin)
    labels = (drawn if noise else margin > 0).double()
    made = Preferences.from_labels(segments[first], segments[second], labels)
    return replace(made, annotators=who, annotator_names=("left", "right"))


def tastes(seed: int) -> dict[str, float]:
    """Accuracy for who answered, from 400 noisy answers, on 500 pairs of other segments without noise."""
    seen = answered(swings(seed), 400, seed, True)
    unseen = answered(swings(seed + 500), 500, seed + 1, False)
    env: Any = prefrl.envs.make_device("prefrl/Pendulum-v0", 1, device="cpu")
    spaces = env.single_observation_space, env.single_action_space
    found = {}
    for name, config in {
        "bradley_terry": RewardModelConfig(),
        "thurstone": ThurstoneNetworkConfig(),
        "gpm": GPMNetworkConfig(),
        "pal_linear": PALNetworkConfig(),
        "pal_A": PALNetworkConfig(form="A", epochs=100),
        "pal_B": PALNetworkConfig(form="B", epochs=100),
    }.items():
        model = make_reward_model(*spaces, config, seed=seed)
        model.fit(seen)
        found[name] = float(model.accuracy(unseen))
    return found


# Agents -------------------------------------------------------------------------------------------------


def trained(
    env_id: str, seed: int, steps: int, preferences: Preferences | None = None, **settings: Any
) -> PreferenceRL:
    """An agent with PPO on eight environments, trained."""
    env = prefrl.envs.make_device(env_id, 8, device="cpu")
    config = PreferenceRLConfig(PPOConfig(), segment_length=STEPS, **settings)
    agent = PreferenceRL(env, config, preferences=preferences, device="cpu", seed=seed)
    agent.learn(steps)
    return agent


def episodes(agent: PreferenceRL, env_id: str, steps: int, seed: int) -> tuple[Tensor, Tensor]:
    """Observations [steps, 16, ...] and rewards [steps, 16] of the first episode of each of 16 rows."""
    env: Any = prefrl.envs.make_device(env_id, 16, device="cpu")
    obs, seen, rewards, alive = env.reset(seed=seed)[0], [], [], torch.ones(16)
    for _ in range(steps):
        seen.append(obs)
        obs, reward, terminated, truncated, _ = env.step(agent.act(obs, deterministic=True))
        rewards.append(reward * alive)
        alive = alive * (~(terminated | truncated))
    return torch.stack(seen), torch.stack(rewards)


def spin(seed: int) -> dict[str, float]:
    """How fast pendulums turn the way that the chosen annotator likes, after 20,000 steps."""
    answers = answered(swings(seed), 400, seed, True)
    found = {}
    for name, reward in {
        "pal_left": PALNetworkConfig(user=0),
        "pal_right": PALNetworkConfig(user=1),
        "bradley_terry": RewardModelConfig(),
    }.items():
        agent = trained("prefrl/Pendulum-v0", seed, 20_000, answers, reward=reward, num_labels=0)
        turned = float(episodes(agent, "prefrl/Pendulum-v0", 200, seed)[0][..., 2].mean())
        found[name] = -turned if name == "pal_right" else turned
    return found


def balance(seed: int) -> dict[str, float]:
    """CartPole's return after 30,000 steps with 100 answers of a noisy teacher, and the models' accuracy."""
    asked: dict[str, Any] = {
        "teacher": "logistic", "teacher_temperature": 0.5, "num_labels": 100, "first_labels": 20,
        "session_labels": 8, "first_session": 2_500, "session_every": 1_750,
    }  # fmt: skip
    found = {}
    for name, reward in {
        "bradley_terry": RewardModelConfig(),
        "thurstone": ThurstoneNetworkConfig(),
    }.items():
        agent = trained("prefrl/CartPole-v0", seed, 30_000, reward=reward, **asked)
        found[f"{name}_return"] = float(episodes(agent, "prefrl/CartPole-v0", 500, seed)[1].sum(0).mean())
        found[f"{name}_accuracy"] = agent.accuracy()
    return found


CLAIMS: Mapping[str, Claim] = {
    "circles": Claim(
        "one network of one plane names every winner of three in a circle in most seeds, the mean of four in "
        "all, Bradley-Terry 2/3 at most; with one that beats all: 5/6 at most, and 1 by two planes",
        circles,
        lambda of: ((of["three_gpm_1"] == 1.0).mean() > 0.5 and of["three_gpm_1_of_4"].min() == 1.0
                    and of["three_bradley_terry"].max() < 0.67 and of["four_gpm_1"].max() < 0.84
                    and of["four_gpm_2"].min() == 1.0),
    ),
    "tastes": Claim(
        "two annotators of opposite tastes: PAL .9 of unseen pairs (.8 by forms A and B), Bradley-Terry .65 "
        "at most",
        tastes,
        lambda of: (of["pal_linear"].min() >= 0.9 and min(of["pal_A"].min(), of["pal_B"].min()) >= 0.8
                    and of["bradley_terry"].max() <= 0.65),
    ),
    "spin": Claim(
        "an agent on PAL's reward of one of them turns as he likes it, in every seed",
        spin,
        lambda of: min(of["pal_left"].min(), of["pal_right"].min()) > 2.0,
    ),
    "balance": Claim(
        "Thurstone's mean is as good a reward as Bradley-Terry's where the teacher is noisy: .95 of its "
        "return, on the mean over seeds",
        balance,
        lambda of: of["thurstone_return"].mean() >= 0.95 * of["bradley_terry_return"].mean(),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class PreferenceNetworkStudy(ClaimStudy):
    """What networks of segments express, and what agents learn from them."""

    known: ClassVar[Mapping[str, Claim]] = CLAIMS

    out: Path = Path("runs/preference_networks")
    """Run folder: new, empty, or of the same study."""

    seeds: int = 5
    """Seeds of each."""


if __name__ == "__main__":
    sys.exit(execute(lambda: parse(PreferenceNetworkStudy, description=__doc__)))
