"""Proximal policy optimisation again: one learner, loops, float64, torch's autograd, Adam, distributions."""

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor
from torch.distributions import Categorical, Normal

from prefrl.agents.actor_critic.ppo import PPO
from prefrl.functional.streams import Streams


def loss_of(
    agent: PPO, outputs: Tensor, values: Tensor, free: Tensor, raw: Tensor, columns: Tensor
) -> Tensor:
    """The loss that an agent's gradient step goes down, written out, of learners [S] for autograd.

    Args:
        agent: clips at 0.2, and does not normalise advantages.
        outputs: [S, N, K] of the policy.
        values: [S, N].
        free: [S, 1, width] the distribution's free parameters.
        raw: [S, N, ...] actions.
        columns: [5, S, N] advantages, returns, log-probabilities and values of before, and who counts.
    """
    advantages, returns, old_log_probs, mask, old_values = columns
    said = agent.actions.distribution.evaluate(outputs, free, raw)
    ratio = (said.log_probs - old_log_probs).exp()
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)
    reach = agent.config.clip_range_vf
    if reach is not None:
        values = old_values + (values - old_values).clamp(-reach, reach)
    given = agent.config.ent_coef
    ent_coef = torch.tensor(given if isinstance(given, tuple) else [given])[:, None]
    loss = -surrogate - ent_coef * said.entropies + agent.config.vf_coef * (values - returns).square()
    return (loss * mask).sum(1) / mask.sum(1)


def random_columns(agent: PPO, obs: Any, learners: int, count: int) -> tuple[Tensor, Tensor]:
    """Raw actions [S, N, ...] for observations [S * N, ...], and columns far from the policy that acted."""
    draws = torch.Generator().manual_seed(0)
    agent.act(obs)
    old_log_probs = agent.acted["log_probs"].view(learners, count)
    old_log_probs = old_log_probs + 0.3 * torch.randn(learners, count, generator=draws)
    advantages, returns, old_values = torch.randn(3, learners, count, generator=draws)
    mask = (torch.rand(learners, count, generator=draws) < 0.7).float()
    raw = agent.acted["raw_actions"].unflatten(0, (learners, count))
    return raw, torch.stack([advantages, returns, old_log_probs, mask, old_values])


class Twin:
    """Learner ``index`` of an agent, as it is now; :meth:`update` then does what the agent's update should.

    Attributes:
        parameters: by their names in the agent's network.
        gradient: [P] that of the last step, cut.
        metrics: of the last update, under the agent's names.
    """

    def __init__(self, agent: PPO, index: int) -> None:
        self.config, self.space = agent.config, agent.action_space
        self.rate, self.gamma, self.ent_coef = (
            value[index] if isinstance(value, tuple) else value
            for value in (self.config.learning_rate, self.config.gamma, self.config.ent_coef)
        )
        self.parameters = {
            name: value[index].detach().double().requires_grad_()
            for name, value in copy.deepcopy(agent.network.state_dict()).items()
        }
        self.adam = torch.optim.Adam(list(self.parameters.values()), lr=self.rate, eps=self.config.adam_eps)
        self.orders = Streams([agent.seed + index], "batches", torch.device("cpu"))
        self.sums: list[float] = []  # discounted sums of rewards so far
        self.since_start: np.ndarray | None = None
        self.seen: list[np.ndarray] = []  # observations of the rollouts before
        self.gradient = torch.zeros(0)
        self.metrics: dict[str, float] = {}

    def network(self, name: str, x: Tensor) -> Tensor:
        layers = len(self.config.hidden) + 1
        for layer in range(layers):
            weight, bias = (self.parameters[f"{name}.layers.{layer}.{part}"] for part in ("weight", "bias"))
            x = x @ weight + bias
            if layer < layers - 1:
                x = torch.tanh(x) if self.config.activation == "tanh" else torch.relu(x)
        return x

    def value(self, x: Tensor) -> Tensor:
        return self.network("value", x)[..., 0]

    def said(self, x: Tensor, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies."""
        outputs = self.network("policy", x)
        if isinstance(self.space, gym.spaces.Box):
            law: Any = Normal(outputs, self.parameters["free"].exp())
            return law.log_prob(raw).sum(-1), law.entropy().sum(-1)
        sizes = (
            [int(self.space.n)] if isinstance(self.space, gym.spaces.Discrete) else self.space.nvec.tolist()
        )
        laws = [Categorical(logits=part) for part in torch.split(outputs, sizes, -1)]
        log_probs = sum(law.log_prob(raw[..., place]) for place, law in enumerate(laws))
        return log_probs, sum(law.entropy() for law in laws)

    def normalized(self, obs: np.ndarray) -> Tensor:
        if self.config.normalize_observations and self.seen:
            every = np.concatenate(self.seen)
            obs = ((obs - every.mean(0)) / np.sqrt(every.var(0) + 1e-8)).clip(-10.0, 10.0)
        return torch.as_tensor(obs)

    def scaled(self, steps: dict[str, np.ndarray]) -> np.ndarray:
        rewards, (length, rows) = steps["rewards"], steps["rewards"].shape
        if not self.config.normalize_rewards:
            return rewards
        running = np.zeros(rows) if self.since_start is None else self.since_start
        for t in range(length):
            running = rewards[t] + self.gamma * running
            self.sums += running[steps["mask"][t]].tolist()
            running = running * ~(steps["terminations"][t] | steps["truncations"][t])
        self.since_start = running
        return (rewards / np.sqrt(np.var(self.sums) + 1e-8)).clip(-10.0, 10.0)

    def advantages(
        self, steps: dict[str, np.ndarray], values: np.ndarray, following: np.ndarray
    ) -> np.ndarray:
        rewards, found = self.scaled(steps), np.zeros_like(values)
        for t in reversed(range(len(values))):
            found[t] = rewards[t] + self.gamma * following[t] * ~steps["terminations"][t] - values[t]
            if t + 1 < len(values):
                goes_on = ~(steps["terminations"][t] | steps["truncations"][t])
                found[t] += self.gamma * self.config.gae_lambda * goes_on * found[t + 1]
        return found

    def update(self, steps: dict[str, np.ndarray], share: float = 1.0, clip_share: float = 1.0) -> None:
        """Learn from a rollout, [T, n, ...] by name, in float64."""
        config, (length, rows) = self.config, steps["rewards"].shape
        obs, next_obs = self.normalized(steps["obs"]), self.normalized(steps["next_obs"])
        with torch.no_grad():
            values, following = self.value(obs).numpy(), self.value(next_obs).numpy()
        advantages = self.advantages(steps, values, following)
        data = {"obs": obs, "raw": torch.as_tensor(steps["raw_actions"]), "values": torch.as_tensor(values),
                "log_probs": torch.as_tensor(steps["log_probs"]), "mask": torch.as_tensor(steps["mask"]),
                "advantages": torch.as_tensor(advantages),
                "returns": torch.as_tensor(advantages + values)}  # fmt: skip
        data = {name: value.flatten(0, 1) for name, value in data.items()}
        self.adam.param_groups[0]["lr"] = self.rate * share
        clip_range, going, terms = config.clip_range * clip_share, True, []
        for _ in range(config.n_epochs):
            order = self.orders.permutations(length * rows)[0]
            for part in torch.split(order, config.batch_size):
                batch = {name: value[part] for name, value in data.items()}
                loss, found = self.loss(batch, clip_range)
                terms.append(found)
                going = going and (config.target_kl is None or found["approx_kl"] <= 1.5 * config.target_kl)
                if going:
                    self.step(loss)
        if config.normalize_observations:
            self.seen.append(steps["obs"][steps["mask"]])
        self.report(terms, data, share, clip_range)

    def loss(self, batch: dict[str, Tensor], clip_range: float) -> tuple[Tensor, dict[str, float]]:
        config, mask = self.config, batch["mask"]
        log_probs, entropies = self.said(batch["obs"], batch["raw"])
        ratio = (log_probs - batch["log_probs"]).exp()
        advantages = batch["advantages"]
        if config.normalize_advantage:
            kept = advantages[mask]
            advantages = (advantages - kept.mean()) / (kept.std(correction=0) + 1e-8)
        clipped = ratio.clamp(1.0 - clip_range, 1.0 + clip_range)
        objective = torch.minimum(ratio * advantages, clipped * advantages)
        values = self.value(batch["obs"])
        if config.clip_range_vf is not None:
            moved = (values - batch["values"]).clamp(-config.clip_range_vf, config.clip_range_vf)
            values = batch["values"] + moved
        errors = (values - batch["returns"]).square()
        parts = {"policy_gradient_loss": -objective, "value_loss": errors, "entropy_loss": -entropies,
                 "approx_kl": ratio - 1.0 - ratio.log(),
                 "clip_fraction": ((ratio - 1.0).abs() > clip_range).double()}  # fmt: skip
        means = {name: part[mask].mean() for name, part in parts.items()}
        loss = (means["policy_gradient_loss"] + config.vf_coef * means["value_loss"]
                + self.ent_coef * means["entropy_loss"])  # fmt: skip
        return loss, {name: float(value.detach()) for name, value in means.items()}

    def step(self, loss: Tensor) -> None:
        self.adam.zero_grad(set_to_none=False)
        loss.backward()
        if self.config.max_grad_norm is not None:
            torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), self.config.max_grad_norm)
        self.gradient = torch.cat([
            torch.zeros_like(parameter).flatten() if parameter.grad is None else parameter.grad.flatten()
            for parameter in self.parameters.values()
        ])  # fmt: skip
        self.adam.step()

    def report(
        self, terms: list[dict[str, float]], data: dict[str, Tensor], share: float, clip: float
    ) -> None:
        metrics = {name: float(np.mean([each[name] for each in terms])) for name in terms[0]}
        returns, errors = (data["returns"][data["mask"]], (data["returns"] - data["values"])[data["mask"]])
        metrics["explained_variance"] = float(1.0 - errors.var(correction=0) / returns.var(correction=0))
        metrics["loss"] = (metrics["policy_gradient_loss"] + self.config.vf_coef * metrics["value_loss"]
                           + self.ent_coef * metrics["entropy_loss"])  # fmt: skip
        metrics |= {"learning_rate": self.rate * share, "clip_range": clip}
        if isinstance(self.space, gym.spaces.Box):
            metrics["std"] = float(self.parameters["free"].detach().exp().mean())
        self.metrics = {f"train/{name}": value for name, value in metrics.items()}
