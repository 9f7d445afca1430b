"""Policies of sequences that take them step by step: a table or a network of how likely the next token is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from prefrl.data.devices import building
from prefrl.nn.adam import Adam
from prefrl.nn.flat import FlatParameters
from prefrl.nn.mlp import StackedMLP


class Table(nn.Module):
    """A number for each state and token, 0 at first."""

    def __init__(self, states: int, tokens: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(1, states, tokens, dtype=torch.float64))

    def forward(self, states: Tensor) -> Tensor:
        """Return the numbers [1, S, V]; the states are not looked at, since they are all there are."""
        return self.values


class StepPolicy:
    """A policy of sequences with parameters, and how it descends; at first it is what it is measured against.

    log p(sequence) = sum_t log p(token_t | prompt, tokens before), of a softmax of the prior's logarithms and
    what the table or network adds to them.

    Args:
        prior: [P, N, V] logarithms of next tokens' probabilities in inner nodes of trees of P prompts,
            numbered as in :mod:`prefrl.envs.finite_horizon.sequence_tree`.
        depth: T.
        hidden: sizes of the network's hidden layers; None: a table.
        rate: step size.
        adam: whether steps are Adam's, and not plain gradient descent.
        seed: of the network's weights.
    """

    def __init__(
        self, prior: Tensor, depth: int, hidden: Sequence[int] | None, *, rate: float, adam: bool, seed: int
    ) -> None:  # fmt: skip
        prompts, nodes, vocabulary = prior.shape
        device, states = prior.device, prompts * nodes
        self._prior, self._rate = prior.flatten(0, 1), rate
        with building(device, seed):
            module = Table(states, vocabulary) if hidden is None else _network(states, hidden, vocabulary)
            self._states = torch.eye(states)[None]
            places = vocabulary ** torch.arange(depth - 1, -1, -1)
            self._tokens = torch.arange(vocabulary**depth)[:, None] // places % vocabulary  # [K, T]
            passed = [torch.zeros(len(self._tokens), dtype=torch.int64)]
            for t in range(depth - 1):
                passed.append(vocabulary * passed[-1] + 1 + self._tokens[:, t])
            self._nodes = nodes * torch.arange(prompts)[:, None, None] + torch.stack(passed, -1)  # [P, K, T]
        self.module = module
        self.weights = FlatParameters(module)
        self.adam = Adam([self.weights.vector], lr=rate) if adam else None

    def log_probs(self) -> Tensor:
        """Return logarithms of the probabilities of sequences [P, K], float64 whatever the network's."""
        steps = torch.log_softmax(self._prior + self.module(self._states)[0].double(), -1)
        return steps[self._nodes, self._tokens].sum(-1)

    def descend(self, loss: Tensor) -> None:
        """Take a step down a loss [] of :meth:`log_probs`."""
        self.weights.gradient.zero_()
        loss.backward()  # type: ignore[no-untyped-call]
        if self.adam is not None:
            self.adam.step()
        else:
            with torch.no_grad():
                self.weights.vector.sub_(self.weights.gradient, alpha=self._rate)

    def state_dict(self) -> dict[str, Tensor]:
        """Return prior, parameters and Adam's averages, as they are and not copied."""
        averages = {} if self.adam is None else self.adam.states[0]
        return {"prior": self._prior, "vector": self.weights.vector.detach(), **averages}

    def snapshot(self) -> dict[str, Tensor]:
        """Return a copy of :meth:`state_dict`."""
        return {name: value.clone() for name, value in self.state_dict().items()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go back to, or on from, a state; ValueError for one of another policy."""
        ours = self.state_dict()
        if {name: value.shape for name, value in state.items()} != {n: v.shape for n, v in ours.items()}:
            raise ValueError("its parameters are those of another policy")
        for name, value in ours.items():
            value.copy_(state[name])


def _network(states: int, hidden: Sequence[int], vocabulary: int) -> StackedMLP:
    """Return a network from indicators of states to tokens, whose outputs are 0 at first."""
    network = StackedMLP(1, states, hidden, vocabulary, "tanh")
    with torch.no_grad():
        for last in (network.weights()[-1], network.biases()[-1]):
            last.zero_()
    return network
