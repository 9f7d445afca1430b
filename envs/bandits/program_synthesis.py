"""Writing a short program word by word, paid only where it passes its unit tests."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike, NDArray

from prefrl.envs.core.backend import Array, Backend, State
from prefrl.envs.core.checks import check_count, check_layout_seed, check_number
from prefrl.envs.finite_horizon.sequence_task import SequenceTask
from prefrl.envs.finite_horizon.sequence_tree import Floats, SequenceTree, check_tree

from .stack_programs import END, INPUTS, WORDS, Programs, all_programs

SHORTEST = 3
"""Words, without `end`, that the shortest program of a task has at least."""

SCALE = 4.0
"""What inverse hyperbolic sines of outputs are divided by, in observations."""

ObservationKind = Literal["words", "number"]
"""What is seen: words and the wanted outputs, or the state's number."""


class Written(NamedTuple):
    """M programs that were written, with what was seen on the way."""

    obs: NDArray[Any]
    """[M, T + 1, ...] observations; after the end the last one goes on."""

    actions: NDArray[np.int64]
    """[M, T] words; `end` after the end."""

    rewards: Floats
    """[M] paid with the last word."""

    lengths: NDArray[np.int64]
    """[M] words, `end` among them."""


class ProgramSynthesisDynamics(SequenceTask):
    """Write a program of a stack language that turns given inputs into wanted outputs.

    ## Description
    A prompt shows what a program is to give for the inputs -2, -1, 0, 1, 2, 3. The program is written word by
    word in a stack language: `x`, `1`, `dup`, `add`, `sub`, `mul`, `end`. What stands on top of the stack
    at the end is its output; a word that finds too few numbers on the stack spoils it. Nothing is paid before
    the end, and then only for what passes the tests. All programs can be enumerated and run, so that every
    policy's success is known exactly.

    ## Action Space
    `Discrete(7)`: the next word.

    ## Observation Space
    With `observation="words"` a `Box` of `7 depth + 6` numbers: an indicator of the word in every place, 0
    where there is none yet, and asinh(y) / 4 of the wanted outputs y. With "number"
    `Discrete(prompts * N)`, N = 1 + 7 + ... + 7^depth: the prompt and the words so far; the prompt p alone is
    `N p`, and word a leads from `N p + i` to `N p + 7 i + 1 + a`.

    ## Rewards
    At the end 1 if all six tests are passed, otherwise `partial_credit` times the share that is; 0 before.

    ## Starting State
    Uniform over the prompts; or `reset(options={"prompt": p})`.

    ## Episode End
    Terminates after `end`, or after `depth` words.

    ## Arguments
    `depth` (int, 5): most words. `prompts` (int, 16): tasks; each is drawn, without repetition, from
    what a program of at least three words (besides `end`), and no shorter one, gives, and is no constant.
    `layout_seed` (int, 0): which tasks; `reset(seed=...)` changes only the prompt. `partial_credit`
    (float, 0): from 0 to 1. `observation` ("words" or "number"). `render_mode`.

    ## Ground truth
    `targets` [P, 6], `passed()` [P, N] (shares of tests), `success_rate(policy)` [P], `true_value(policy)`
    and `optimal_value()` [S], `sequences()`, `sequence_returns()`, `tabular_model()`, and what is seen in
    states, `observations(decision_states())`. Programs come from people who err, `draw_programs(count, ...)`,
    or from a policy, `policy_programs(policy, prompts)`; `written(prompts, nodes)` says what was seen and
    paid on the way. After `env.unwrapped` where `gym.make` has wrapped it.

    ## Version History
    - v0: first version.
    """

    def __init__(
        self, depth: int = 5, prompts: int = 16, layout_seed: int = 0, partial_credit: float = 0.0,
        observation: ObservationKind = "words", backend: Backend | None = None,
    ) -> None:  # fmt: skip
        v, t, p = check_tree(len(WORDS), depth, prompts, ("words", "depth", "prompts"))
        credit = check_number("partial_credit", partial_credit)
        if not 0.0 <= credit <= 1.0:
            raise ValueError(f"partial_credit is {partial_credit!r}; it must lie in [0, 1]")
        if observation not in get_args(ObservationKind):
            raise ValueError(f"observation is {observation!r}; allowed are {list(get_args(ObservationKind))}")
        self.programs: Programs = all_programs(t)
        self._layout_seed = check_layout_seed(layout_seed)
        self.targets = _drawn_targets(self.programs, p, self._layout_seed)
        self._passed = self._shares()
        rewards = np.where(self._passed == 1.0, 1.0, credit * self._passed)
        stops = self.programs.complete | ~self.programs.reached
        super().__init__(SequenceTree(rewards, v, t), "prompt", backend, ends=stops)
        self.observation_kind, real = observation, self.backend.float_dtype
        shown = np.eye(v)[self.programs.words]
        shown[np.arange(t) >= self.programs.lengths[:, None]] = 0.0
        self._shown = self.backend.asarray(shown.reshape(len(shown), -1), real)
        self._wanted = self.backend.asarray(np.arcsinh(self.targets) / SCALE, real)
        if observation == "words":
            size = v * t + len(INPUTS)
            self.single_observation_space = gym.spaces.Box(-4.0, 4.0, (size,), np.float32)

    def _shares(self) -> Floats:
        """Return what share of a prompt's tests each program passes [P, N]; 0 for what is none."""
        right = (self.programs.outputs == self.targets[:, None]).mean(-1)
        return np.where(self.programs.valid, right, 0.0)

    def observe(self, state: State) -> Array:
        """See :meth:`Dynamics.observe`: words so far and wanted outputs, or the state's number."""
        number = state["state"]
        if self.observation_kind == "number":
            return super().observe(state)
        node = number % self._nodes
        xp, prompt = self.xp, number // self._nodes
        columns = xp.concat([self._shown[node], self._wanted[prompt]], axis=1)
        return columns if self.backend.on_device else xp.astype(columns, xp.float32, copy=False)

    def passed(self) -> Floats:
        """Return what share of the prompt's tests each node's program passes [P, N]."""
        return self._passed.copy()

    def success_rate(self, policy: ArrayLike) -> Floats:
        """Return the probability [P] that a policy [S, A] passes all tests."""
        tree = SequenceTree((self._passed == 1.0).astype(np.float64), len(WORDS), self.tree.depth)
        return tree.policy_values(self._by_prompt("policy", policy))[:, 0]

    def decision_states(self) -> NDArray[np.int64]:
        """Return the states [M] in which a word is to be chosen, prompt by prompt."""
        return np.flatnonzero(~self._ends)

    def observations(self, states: ArrayLike) -> NDArray[Any]:
        """Return what is seen in states [M]: [M, ...], on the host."""
        numbers = np.asarray(states, dtype=np.int64)
        if numbers.ndim != 1 or not ((numbers >= 0) & (numbers < len(self._ends))).all():
            raise ValueError(f"states must be whole numbers [M] from 0 to {len(self._ends) - 1}")
        return np.asarray(self.observe({"state": self.backend.asarray(numbers)}))

    def draw_programs(
        self, count: int, correct_share: float = 0.3, mistakes: int = 5, seed: int = 0
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return prompts [M] and complete programs [M] (their nodes), of people who err.

        Prompts are drawn evenly. A program is correct with a probability, evenly drawn from all that pass the
        tests; otherwise it is one of the prompt's mistakes, evenly drawn from a few that everybody makes.
        These are near misses, which run, fail, and differ from a correct program in one word; which ones, the
        layout's seed decides.

        Args:
            count: M.
            correct_share: that probability.
            mistakes: how many there are after each prompt (all, where there are fewer near misses).
            seed: of the draws.

        Raises:
            ValueError: for a bad argument.
        """
        share = check_number("correct_share", correct_share)
        if not 0.0 <= share <= 1.0:
            raise ValueError(f"correct_share is {correct_share!r}; it must lie in [0, 1]")
        most, rng = check_count("mistakes", mistakes), np.random.default_rng(check_layout_seed(seed))
        prompts = rng.integers(self.num_prompts, size=check_count("count", count))
        correct = rng.random(len(prompts)) < share
        nodes = np.zeros_like(prompts)
        for prompt in range(self.num_prompts):
            right = np.flatnonzero(self._passed[prompt] == 1.0)
            near = self._near_misses(prompt, right)
            which = np.random.default_rng([self._layout_seed, prompt])
            wrong = which.choice(near, min(most, len(near)), replace=False)
            for pool, wanted in ((right, True), (wrong, False)):
                rows = (prompts == prompt) & (correct == wanted)
                nodes[rows] = rng.choice(pool, rows.sum())
        return prompts, nodes

    def _near_misses(self, prompt: int, right: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the programs that run, fail, and differ in one word from one that passes."""
        words = self.programs.words
        candidates = np.flatnonzero(self.programs.valid & (self._passed[prompt] < 1.0))
        nearest = np.full(len(candidates), len(words))
        for program in right:
            nearest = np.minimum(nearest, (words[candidates] != words[program]).sum(-1))
        found: NDArray[np.int64] = candidates[nearest == 1]
        return found

    def policy_programs(self, policy: ArrayLike, prompts: ArrayLike, seed: int = 0) -> NDArray[np.int64]:
        """Return complete programs [M] (their nodes) that a policy [S, A] writes after prompts [M].

        Args:
            policy: chances of the next word.
            prompts: whole numbers.
            seed: of the draws.

        Raises:
            ValueError: for a bad argument.
        """
        chances = self.tree.check_policy("policy", self._by_prompt("policy", policy))
        chosen = np.asarray(prompts)
        if chosen.ndim != 1 or chosen.dtype.kind not in "iu":
            raise ValueError(
                f"prompts are {chosen.dtype} {list(chosen.shape)}; they must be whole numbers [M]"
            )
        for prompt in (chosen.min(initial=0), chosen.max(initial=0)):
            self._check_prompt(int(prompt))
        rng, first = np.random.default_rng(check_layout_seed(seed)), self._nodes * chosen
        limits, state = chances.reshape(-1, self._tokens).cumsum(-1)[:, :-1], first.copy()
        for _ in range(self.tree.depth):
            word = (rng.random(len(state))[:, None] >= limits[state]).sum(-1)
            state = self._children[state, word]  # after the end, where it was
        return np.asarray(state - first)

    def written(self, prompts: ArrayLike, nodes: ArrayLike) -> Written:
        """Return what writing programs gives.

        Args:
            prompts: [M].
            nodes: [M] nodes of complete programs.

        Raises:
            ValueError: if a node is no complete program.
        """
        prompt, node = (np.asarray(each, dtype=np.int64) for each in (prompts, nodes))
        if not (self.programs.complete & self.programs.reached)[node].all():
            raise ValueError("nodes must be complete programs")
        words, lengths = self.programs.words[node], self.programs.lengths[node]
        states = np.zeros((len(node), self.tree.depth + 1), dtype=np.int64)
        for step, word in enumerate(words.T):
            going = step < lengths
            states[:, step + 1] = np.where(going, len(WORDS) * states[:, step] + 1 + word, states[:, step])
        obs = self.observations((self._nodes * prompt[:, None] + states).ravel())
        return Written(obs.reshape(*states.shape, *obs.shape[1:]), words,
                       self.tree.rewards[prompt, node], lengths)  # fmt: skip

    def draw(self, state: State, index: int, last_action: Any) -> NDArray[np.uint8]:
        """See :meth:`Dynamics.draw`: the words so far, and what each test wants and gets."""
        from prefrl.envs.rendering.sequences import draw_program

        prompt, node = divmod(int(state["state"][index]), self._nodes)
        length, runs = int(self.programs.lengths[node]), bool(self.programs.runs[node])
        words = [WORDS[word] for word in self.programs.words[node, :length]]
        some = runs and self.programs.sizes[node] > 0
        outputs = self.programs.outputs[node].tolist() if some else None
        return draw_program(f"prompt {prompt}", words, self.tree.depth, INPUTS,
                            self.targets[prompt].tolist(), outputs)  # fmt: skip


def _drawn_targets(programs: Programs, prompts: int, layout_seed: int) -> NDArray[np.int64]:
    """Return the wanted outputs [P, E] of tasks that are drawn; ValueError if there are not so many."""
    valid = np.flatnonzero(programs.valid)
    size = programs.lengths[valid] - (programs.words[valid] == END).any(-1)
    outputs, which = np.unique(programs.outputs[valid], axis=0, return_inverse=True)
    shortest = np.full(len(outputs), programs.words.shape[1] + 1)
    np.minimum.at(shortest, which.ravel(), size)
    suits = np.flatnonzero((shortest >= SHORTEST) & (outputs != outputs[:, :1]).any(-1))
    if prompts > len(suits):
        raise ValueError(f"prompts is {prompts}; programs of at most {programs.words.shape[1]} words make "
                         f"{len(suits)} tasks")  # fmt: skip
    chosen = np.random.default_rng(layout_seed).choice(suits, prompts, replace=False)
    return np.asarray(outputs[chosen])
