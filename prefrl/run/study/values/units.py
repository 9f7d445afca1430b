"""What stochastic units promise, measured: biases of estimators, gated networks, agents that have them."""

from __future__ import annotations

from collections.abc import Mapping

import gymnasium as gym
import torch
from stable_baselines3.common.evaluation import evaluate_policy
from torch import Tensor, nn

import prefrl.envs
from prefrl.agents.actor_critic.ppo import PPO, PPOConfig
from prefrl.agents.value_based.dqn import DQN
from prefrl.functional.stochastic_units import (
    bernoulli,
    exact_baseline,
    reinforce,
    straight_through,
)
from prefrl.nn.stochastic.units import GatedMLP
from prefrl.nn.torsos import MLPTorso
from prefrl.run.study.claims import Claim

DRAWS = 1_000_000
"""Of a unit."""

CLUSTERS, NUMBERS, CLASSES = 40, 8, 5
"""Of the classification: normal clusters in so many numbers, dealt to classes in turns."""

WIDTH, EPOCHS = 256, 30
"""Units of the hidden layer, and passes over 4,000 examples."""


def quadratic(h: Tensor) -> Tensor:
    """Return (1 + h)^2."""
    return (1.0 + h).square()


def linear(h: Tensor) -> Tensor:
    """Return 3 h + 1."""
    return 3.0 * h + 1.0


def estimators(seed: int) -> dict[str, float]:
    """Errors of REINFORCE and straight-through for one unit, in standard errors or as they are."""
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn((), generator=generator, dtype=torch.float64)
    h = bernoulli(a.expand(DRAWS), torch.rand(DRAWS, generator=generator, dtype=torch.float64))
    on = torch.sigmoid(a)
    slope, zero, one = on * (1.0 - on), torch.zeros_like(a), torch.ones_like(a)
    exact = slope * (quadratic(one) - quadratic(zero))
    plain = reinforce(a, h, quadratic(h))
    best = reinforce(a, h, quadratic(h), exact_baseline(a, quadratic(zero), quadratic(one)))
    found = {
        "reinforce_standard_errors": float((plain.mean() - exact).abs() / (plain.std() / DRAWS**0.5)),
        "best_baseline_error": float((best - exact).abs().max()),
    }
    for name, loss in (("quadratic", quadratic), ("linear", linear)):
        asked = a.expand(DRAWS).clone().requires_grad_()
        loss(straight_through(asked, h)).sum().backward()  # type: ignore[no-untyped-call]
        assert asked.grad is not None
        right = slope * (loss(one) - loss(zero))
        found[f"straight_through_{name}_bias"] = float((asked.grad.mean() - right).abs())
    return found


def clusters(seed: int, count: int) -> tuple[Tensor, Tensor]:
    """Return examples [count, NUMBERS] and their classes [count]."""
    generator = torch.Generator().manual_seed(seed)
    centres = 1.5 * torch.randn(CLUSTERS, NUMBERS, generator=generator)
    which = torch.randint(CLUSTERS, (count,), generator=generator)
    return centres[which] + 0.5 * torch.randn(count, NUMBERS, generator=generator), which % CLASSES


def accuracy(torso: GatedMLP | MLPTorso, seed: int) -> tuple[float, Tensor]:
    """Return the share of 2,000 other examples that are told right after training, and these."""
    x, y = clusters(seed, 6_000)
    train, test = (x[:4_000], y[:4_000]), (x[4_000:], y[4_000:])
    network = nn.Sequential(torso, nn.Linear(torso.features, CLASSES))
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(EPOCHS):
        for rows in torch.split(torch.randperm(4_000), 100):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(network(train[0][rows]), train[1][rows])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    with torch.no_grad():
        return float((network(test[0]).argmax(1) == test[1]).float().mean()), test[0]


def gated(seed: int) -> dict[str, float]:
    """Accuracy of a gated layer, each unit of which has a gate, of a dense one, and of one of a tenth."""
    torch.manual_seed(seed)
    torso = GatedMLP(NUMBERS, (WIDTH,), WIDTH)
    own, examples = accuracy(torso, seed)
    dense, _ = accuracy(MLPTorso(NUMBERS, (WIDTH,)), seed)
    small, _ = accuracy(MLPTorso(NUMBERS, (round(WIDTH / 10),)), seed)
    activity = float(torso.activities(examples)[0])
    return {"gated": own, "dense": dense, "tenth": small, "behind": dense - own, "activity": activity}


def cart_pole(seed: int) -> dict[str, float]:
    """Returns of PPO and DQN with a gated torso in CartPole (500 is the most)."""
    torch.manual_seed(seed)
    found = {}
    for name in ("ppo", "dqn"):
        torso = GatedMLP(4, (64, 64), 16, activity=0.25)
        agent: PPO | DQN
        if name == "ppo":
            env = prefrl.envs.make_device("prefrl/CartPole-v0", 8)
            config = PPOConfig(learning_rate=1e-3)
            agent = PPO(env, config, torso=torso, seed=seed, device="cpu").learn(100_000)
        else:
            env = prefrl.envs.make_device("prefrl/CartPole-v0", 1)
            agent = DQN(env, torso=torso, seed=seed, device="cpu").learn(30_000)
        place = gym.make("prefrl/CartPole-v0")
        place.reset(seed=seed)
        mean, _ = evaluate_policy(agent, place, n_eval_episodes=20, warn=False)
        found[name] = float(mean)  # type: ignore[arg-type]
    return found


CLAIMS: Mapping[str, Claim] = {
    "unit_gradients": Claim(
        "E6: REINFORCE leans by less than 3 standard errors of 1e6 draws, the best baseline by nothing; "
        "straight-through leans for a quadratic loss and not for a linear one",
        estimators,
        lambda n: (
            (n["reinforce_standard_errors"] < 3.0).all()
            and n["best_baseline_error"].max() < 1e-12
            and n["straight_through_quadratic_bias"].min() > 1e-3
            and n["straight_through_linear_bias"].max() < 1e-12
        ),
    ),
    "gated": Claim(
        "E6: a gated layer is active to 10 % +- 2 % and at most 3 points behind the dense one (its mean)",
        gated,
        lambda n: (abs(n["activity"] - 0.1) <= 0.02).all() and n["behind"].mean() <= 0.03,
    ),
    "gated_torso": Claim(
        "PPO and DQN with a gated torso come to 200 in CartPole, in 100,000 and 30,000 steps",
        cart_pole,
        lambda n: n["ppo"].min() >= 200.0 and n["dqn"].min() >= 200.0,
    ),
}
"""Claims of stochastic units by name."""
