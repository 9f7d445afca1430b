"""Programs of a stack language: run against a plain interpreter, and what is known of all of them."""

import itertools

import gymnasium as gym
import numpy as np
import pytest

import prefrl.envs
from prefrl.envs.bandits.program_synthesis import SCALE, ProgramSynthesisDynamics
from prefrl.envs.bandits.stack_programs import END, INPUTS, WORDS, all_programs

assert prefrl.envs.REGISTRY


def interpreted(words, x):
    """The output of a program, by a plain interpreter; None where it has none."""
    stack = []
    for word in words:
        if word == "end":
            break
        if word in ("x", "1"):
            stack.append(x if word == "x" else 1)
        elif word == "dup" and stack:
            stack.append(stack[-1])
        elif word in ("add", "sub", "mul") and len(stack) >= 2:
            upper, lower = stack.pop(), stack.pop()
            stack.append({"add": lower + upper, "sub": lower - upper, "mul": lower * upper}[word])
        else:
            return None
    return stack[-1] if stack else None


def node_of(words):
    node = 0
    for word in words:
        node = len(WORDS) * node + 1 + WORDS.index(word)
    return node


@pytest.fixture(scope="module")
def task():
    return ProgramSynthesisDynamics(depth=4, prompts=4, layout_seed=3)


def uniform(task):
    states = len(task.optimal_value())
    return np.full((states, len(WORDS)), 1.0 / len(WORDS))


def test_every_program_does_what_an_interpreter_does():
    depth, found = 4, all_programs(4)
    for length in range(depth + 1):
        for words in itertools.product(WORDS, repeat=length):
            node, ended = node_of(words), "end" in words
            reachable = "end" not in words[:-1]
            assert found.reached[node] == reachable
            if not reachable:
                continue
            assert found.complete[node] == (ended or length == depth)
            assert [WORDS[word] for word in found.words[node, :length]] == list(words)
            assert found.lengths[node] == length
            outputs = [interpreted(words, x) for x in INPUTS]
            assert found.valid[node] == (found.complete[node] and outputs[0] is not None)
            if outputs[0] is not None:
                assert found.outputs[node].tolist() == outputs


def test_tasks_are_golden_and_no_shorter_program_does_them(task):
    assert task.targets.tolist() == GOLDEN
    assert len({tuple(row) for row in GOLDEN}) == 4
    easy = {tuple(interpreted(words, x) for x in INPUTS)
            for length in (1, 2) for words in itertools.product(WORDS[:END], repeat=length)
            if interpreted(words, 0) is not None}  # fmt: skip
    assert not easy & {tuple(row) for row in GOLDEN}
    other = ProgramSynthesisDynamics(depth=4, prompts=4, layout_seed=4)
    assert other.targets.tolist() != GOLDEN


GOLDEN = [[4, 1, 0, 1, 4, 9], [-4, -2, 0, 2, 4, 6], [3, 2, 1, 0, -1, -2], [-3, -2, -1, 0, 1, 2]]


def test_success_is_what_enumeration_and_the_exact_model_say(task):
    """Every program is walked to through the model, and run by the plain interpreter."""
    model, policy = task.tabular_model(), np.random.default_rng(0).dirichlet(np.ones(7), len(uniform(task)))
    nodes = len(policy) // task.num_prompts
    chance = np.zeros(task.num_prompts)
    for prompt in range(task.num_prompts):
        open_states = [(prompt * nodes, 1.0, ())]
        while open_states:
            state, weight, words = open_states.pop()
            if model.terminal[state]:
                right = [interpreted(words, x) for x in INPUTS] == task.targets[prompt].tolist()
                chance[prompt] += weight * right
                continue
            for word in range(7):
                following = int(model.successors[state, word, 0])
                open_states.append((following, weight * policy[state, word], (*words, WORDS[word])))
    np.testing.assert_allclose(task.success_rate(policy), chance, atol=1e-12)
    starts = np.arange(task.num_prompts) * nodes
    np.testing.assert_allclose(task.true_value(policy)[starts], chance, atol=1e-12)
    assert (task.optimal_value()[starts] == 1.0).all()


def test_partial_credit_pays_for_some_tests(task):
    paid = ProgramSynthesisDynamics(depth=4, prompts=4, layout_seed=3, partial_credit=0.5)
    shares = task.passed()
    expected = np.where(shares == 1.0, 1.0, 0.5 * shares)
    np.testing.assert_allclose(paid.tree.rewards, expected)
    assert ((expected > 0.0) & (expected < 1.0)).any()
    assert (task.tree.rewards == (shares == 1.0)).all()


def test_an_episode_is_the_program(task):
    env = gym.make("prefrl/ProgramSynthesis-v0", depth=4, prompts=4, layout_seed=3)
    prompt = next(p for p in range(4) if task.passed()[p].max() == 1.0)
    node = int(np.flatnonzero(task.passed()[prompt] == 1.0)[0])
    obs, _ = env.reset(options={"prompt": prompt})
    for step in range(int(task.programs.lengths[node])):
        np.testing.assert_array_equal(obs[:28].reshape(4, 7)[step:], 0.0)
        np.testing.assert_allclose(obs[28:], np.arcsinh(task.targets[prompt]) / SCALE, rtol=1e-6)
        obs, reward, terminated, _, _ = env.step(int(task.programs.words[node, step]))
        assert obs[:28].reshape(4, 7)[step, task.programs.words[node, step]] == 1.0
        assert terminated == (step + 1 == task.programs.lengths[node])
        assert reward == float(terminated)


def test_people_err_as_often_as_they_are_said_to(task):
    prompts, nodes = task.draw_programs(4_000, correct_share=0.4, mistakes=3, seed=5)
    right = task.passed()[prompts, nodes] == 1.0
    assert abs(right.mean() - 0.4) < 0.03
    assert task.programs.valid[nodes].all()
    words = task.programs.words
    for prompt in range(4):
        wrong = np.unique(nodes[(prompts == prompt) & ~right])
        assert len(wrong) == 3
        correct = np.flatnonzero(task.passed()[prompt] == 1.0)
        distance = (words[wrong][:, None] != words[correct]).sum(-1).min(-1)
        assert (distance == 1).all()
    again = task.draw_programs(4_000, correct_share=0.4, mistakes=3, seed=6)
    assert set(again[1][task.passed()[again] < 1.0]) == set(nodes[~right])  # everybody makes the same


def test_programs_of_a_policy_come_as_often_as_they_should(task):
    policy = np.random.default_rng(1).dirichlet(np.ones(7), len(uniform(task)))
    nodes = task.policy_programs(policy, np.full(40_000, 2), seed=0)
    assert (task.programs.complete & task.programs.reached)[nodes].all()
    rate, expected = (task.passed()[2, nodes] == 1.0).mean(), task.success_rate(policy)[2]
    assert abs(rate - expected) < 4.0 * np.sqrt(expected / 40_000) + 1e-9
    first = policy[2 * (len(policy) // 4), END]
    assert abs((nodes == node_of(["end"])).mean() - first) < 0.01


def test_what_was_written_is_what_stepping_gives(task):
    prompts, nodes = task.draw_programs(50, seed=1)
    written = task.written(prompts, nodes)
    env = gym.make("prefrl/ProgramSynthesis-v0", depth=4, prompts=4, layout_seed=3)
    for row in range(20):
        obs, _ = env.reset(options={"prompt": int(prompts[row])})
        total = 0.0
        for step in range(written.lengths[row]):
            np.testing.assert_array_equal(obs, written.obs[row, step])
            obs, reward, terminated, _, _ = env.step(int(written.actions[row, step]))
            total += float(reward)
        assert terminated
        np.testing.assert_array_equal(obs, written.obs[row, written.lengths[row]])
        assert total == written.rewards[row]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": 2}, "prompts is 16; programs of at most 2 words make 0 tasks"),
        ({"depth": 8}, "make more than"),
        ({"prompts": 0}, "prompts is 0; it must be a whole number of at least 1"),
        ({"partial_credit": 1.5}, "partial_credit is 1.5; it must lie in"),
        ({"observation": "text"}, "observation is 'text'; allowed are"),
        ({"layout_seed": -1}, "layout_seed is -1"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ProgramSynthesisDynamics(**settings)


def test_bad_questions_are_refused(task):
    with pytest.raises(ValueError, match="correct_share is 2"):
        task.draw_programs(5, correct_share=2)
    with pytest.raises(ValueError, match="mistakes is 0"):
        task.draw_programs(5, mistakes=0)
    with pytest.raises(ValueError, match="nodes must be complete programs"):
        task.written([0], [0])
    with pytest.raises(ValueError, match="prompt is 4; it must be a whole number from 0 to 3"):
        task.policy_programs(uniform(task), [4])
    with pytest.raises(ValueError, match="states must be whole numbers"):
        task.observations([-1])
    with pytest.raises(ValueError, match="policy has shape"):
        task.success_rate(np.ones((3, 7)))
