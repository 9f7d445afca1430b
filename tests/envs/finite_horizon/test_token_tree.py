"""The tree of tokens: its rewards, what is known of it, against enumeration and other ways to compute it."""

import itertools
import math

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, strategies as st

import prefrl.envs
from prefrl.envs.finite_horizon.sequence_tree import MAX_NODES, SequenceTree, bradley_terry_matrix
from prefrl.envs.finite_horizon.token_tree import TokenTreeDynamics
from prefrl.tabular import TabularMDP, mean_start_value, policy_evaluation, value_iteration

SIZES = [(2, 1, 1), (3, 4, 2), (2, 5, 3), (5, 2, 1)]
"""Vocabulary, depth, prompts."""


def make(size, layout_seed=0):
    vocabulary, depth, prompts = size
    return TokenTreeDynamics(vocabulary, depth, prompts, layout_seed)


def some_policy(env, seed=0):
    size = (int(env.single_observation_space.n), int(env.single_action_space.n))
    return np.random.default_rng(seed).dirichlet(np.ones(size[1]), size[0])


def enumerated(env, policy):
    """Every complete sequence in order, by walking through the model: (prompt, tokens, states, R, log p)."""
    model = env.tabular_model()
    vocabulary, (prompts, count) = policy.shape[1], env.sequence_returns().shape
    depth = round(math.log(count, vocabulary))
    states = len(model.terminal) // prompts
    for prompt in range(prompts):
        for tokens in itertools.product(range(vocabulary), repeat=depth):
            path, total, log_p = [prompt * states], 0.0, 0.0
            for token in tokens:
                assert not model.terminal[path[-1]]
                total += float(model.rewards[path[-1], token, 0])
                log_p += math.log(policy[path[-1], token])
                path.append(int(model.successors[path[-1], token, 0]))
            assert model.terminal[path[-1]]
            yield prompt, tokens, path, total, log_p


# What it is -----------------------------------------------------------------------------------------------


def test_golden_layout():
    """The same seed gives the same tree, on every machine and in every version."""
    first = make((2, 2, 2), 5).tree.rewards * 256
    assert first.tolist() == GOLDEN
    assert make((2, 2, 2), 6).tree.rewards.tolist() != make((2, 2, 2), 5).tree.rewards.tolist()


GOLDEN = [[0, 156, -245, 158, -16, 8, 67], [0, 246, -229, -114, -60, 37, -47]]


def test_every_face_shows_the_tree_of_the_seed():
    kwargs = {"layout_seed": 5, "vocabulary": 2, "depth": 2}
    faces = (
        gym.make("prefrl/TokenTree-v0", **kwargs).unwrapped,
        gym.make_vec("prefrl/TokenTree-v0", 2, **kwargs),
        prefrl.envs.make_device("prefrl/TokenTree-v0", 2, **kwargs),
    )
    for env in faces:
        env.reset(seed=99)
        assert (env.tree.rewards * 256).tolist() == GOLDEN


def test_an_episode_by_hand():
    env = gym.make("prefrl/TokenTree-v0", vocabulary=2, depth=2, layout_seed=5)
    assert env.reset(options={"prompt": 1})[0] == 7
    assert env.step(1)[:3] == (7 + 2, -229 / 256, False)
    assert env.step(0)[:3] == (7 + 5, 37 / 256, True)
    assert {env.reset(seed=seed)[0] for seed in range(20)} == {0, 7}


def test_rewards_are_drawn_evenly():
    rewards = make((10, 4, 1), 3).tree.rewards[0, 1:] * 256
    assert (rewards == rewards.round()).all()
    assert (rewards.min(), rewards.max()) == (-256, 256)
    assert abs(rewards.mean()) < 4.0 * 148 / math.sqrt(rewards.size)
    assert rewards.std() == pytest.approx(math.sqrt((513**2 - 1) / 12), rel=0.02)


def test_prompts_are_even_whatever_the_rounding():
    env = TokenTreeDynamics(prompts=4)
    starts = env.initial({"prompt": np.array([0.0, 0.24, 0.25, 0.5, 0.999, 1.0])})["state"] // 121
    assert starts.tolist() == [0, 0, 1, 2, 3, 3]


# What is known of it --------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_sequences_as_they_are_walked(size):
    env = make(size)
    policy = some_policy(env)
    walked = list(enumerated(env, policy))
    prompts, count = size[2], size[0] ** size[1]
    assert [tokens for _, tokens, *_ in walked] == [tuple(row) for row in env.sequences().tolist()] * prompts
    paths = env.sequence_observations()
    assert [path for _, _, path, *_ in walked] == paths.reshape(-1, size[1] + 1).tolist()
    np.testing.assert_array_equal(env.sequence_returns().ravel(), [total for *_, total, _ in walked])
    np.testing.assert_allclose(env.sequence_log_probs(policy).ravel(), [log_p for *_, log_p in walked])
    assert env.sequence_returns().shape == (prompts, count)


@pytest.mark.parametrize("size", SIZES)
def test_returns_are_what_the_episodes_pay(size):
    env = gym.make("prefrl/TokenTree-v0", vocabulary=size[0], depth=size[1], prompts=size[2], layout_seed=3)
    returns, sequences = env.unwrapped.sequence_returns(), env.unwrapped.sequences()
    rng = np.random.default_rng(0)
    for _ in range(20):
        prompt, index = int(rng.integers(size[2])), int(rng.integers(len(sequences)))
        obs, _ = env.reset(options={"prompt": prompt})
        seen, total, ended = [int(obs)], 0.0, []
        for token in sequences[index]:
            obs, reward, terminated, _, _ = env.step(token)
            seen.append(int(obs))
            total += reward
            ended.append(terminated)
        assert ended == [False] * (size[1] - 1) + [True]
        assert total == returns[prompt, index]
        assert seen == env.unwrapped.sequence_observations()[prompt, index].tolist()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("beta", [0.05, 0.7, 20.0])
def test_the_soft_optimum_over_whole_sequences(size, beta):
    """pi ~ reference exp(R / beta) and J = beta log Z, by summing in plain Python."""
    env = make(size, 4)
    reference = some_policy(env)
    found = env.soft_optimum(beta, reference)
    walked = list(enumerated(env, reference))
    for prompt in range(size[2]):
        own = [(total, log_p) for p, _, _, total, log_p in walked if p == prompt]
        z = math.fsum(math.exp(log_p + total / beta) for total, log_p in own)
        expected = [log_p + total / beta - math.log(z) for total, log_p in own]
        np.testing.assert_allclose(found.log_probs[prompt], expected, rtol=0.0, atol=1e-10)
        assert found.value[prompt] == pytest.approx(beta * math.log(z), abs=1e-11)
        gained = math.fsum(
            math.exp(e) * (t - beta * (e - lp)) for e, (t, lp) in zip(expected, own, strict=True)
        )
        assert found.value[prompt] == pytest.approx(gained, abs=1e-10)
    np.testing.assert_allclose(env.sequence_log_probs(found.policy), found.log_probs, rtol=0.0, atol=1e-9)
    np.testing.assert_allclose(env.regularized_value(found.policy, beta, reference), found.value, atol=1e-9)


@pytest.mark.parametrize("size", SIZES)
def test_the_soft_optimum_step_by_step(size):
    """Soft value iteration on the tabular MDP, swept from zero until nothing changes."""
    env, beta = make(size, 1), 0.4
    reference = some_policy(env)
    found, model = env.soft_optimum(beta, reference), env.tabular_model()
    values = np.zeros(len(model.terminal))
    for _ in range(size[1] + 1):
        worth = model.rewards[..., 0] + values[model.successors[..., 0]]
        values = np.where(model.terminal, 0.0, beta * np.log((reference * np.exp(worth / beta)).sum(1)))
    np.testing.assert_allclose(found.values, values, rtol=0.0, atol=1e-12)
    policy = reference * np.exp((worth - values[:, None]) / beta)
    inner = ~model.terminal
    np.testing.assert_allclose(found.policy[inner], policy[inner], rtol=0.0, atol=1e-12)
    np.testing.assert_allclose(found.policy[~inner], 1.0 / size[0])
    np.testing.assert_allclose(found.value, values[model.start > 0.0], rtol=0.0, atol=1e-12)


@given(st.integers(0, 1000), st.floats(0.05, 5.0))
def test_the_value_of_the_optimum_is_its_divergence_the_other_way_round(seed, beta):
    """With E_reference R = 0: J = -beta E_reference log(policy / reference); no policy has a higher one."""
    env = make((3, 3, 2), seed)
    reference = some_policy(env, seed)
    found, before = env.soft_optimum(beta, reference), env.sequence_log_probs(reference)
    mean = (np.exp(before) * env.sequence_returns()).sum(1)
    other_way = -beta * (np.exp(before) * (found.log_probs - before)).sum(1)
    np.testing.assert_allclose(found.value - mean, other_way, rtol=1e-9, atol=1e-9)
    for rival in (reference, some_policy(env, seed + 1), 0.9 * found.policy + 0.1 / 3.0):
        assert (env.regularized_value(rival, beta, reference) < found.value).all()


def test_the_price_of_divergence_leads_from_the_best_to_the_reference():
    env = make((3, 4, 2))
    reference = some_policy(env)
    start = env.tabular_model().start > 0.0
    np.testing.assert_allclose(env.soft_optimum(1e-3, reference).value, env.optimal_value()[start], atol=0.02)
    far = env.soft_optimum(1e6, reference)
    np.testing.assert_allclose(far.value, env.true_value(reference)[start], atol=1e-5)
    np.testing.assert_allclose(far.log_probs, env.sequence_log_probs(reference), atol=1e-4)
    tiny = env.soft_optimum(1e-8)  # nothing overflows
    assert np.isfinite(tiny.log_probs).all()
    np.testing.assert_array_equal(tiny.log_probs.argmax(1), env.sequence_returns().argmax(1))


@pytest.mark.parametrize("size", SIZES)
def test_values_agree_with_the_solvers(size):
    env = make(size, 2)
    mdp, policy = TabularMDP.from_env(env), some_policy(env)
    rewards, table = mdp.linear_rewards(mdp.weights), mdp.start.new_tensor(policy)[None]
    for gamma in (0.5, 1.0):
        best, worth = value_iteration(mdp, rewards, gamma), policy_evaluation(mdp, table, rewards, gamma)
        np.testing.assert_allclose(env.optimal_value(gamma), best[0], rtol=0.0, atol=1e-12)
        np.testing.assert_allclose(env.true_value(policy, gamma), worth[0], rtol=0.0, atol=1e-12)
    expected = (np.exp(env.sequence_log_probs(policy)) * env.sequence_returns()).sum(1).mean()
    assert float(mean_start_value(mdp, worth)) == pytest.approx(expected, abs=1e-12)
    np.testing.assert_array_equal(best[0][mdp.start[0] > 0.0], env.sequence_returns().max(1))


@pytest.mark.parametrize("size", SIZES)
def test_preferences_are_those_of_bradley_and_terry(size):
    env = make(size, 9)
    matrix, returns = env.preference_matrix(), env.sequence_returns()
    for prompt, i, j in itertools.product(
        range(size[2]), range(0, len(returns[0]), 3), range(len(returns[0]))
    ):
        r_i, r_j = returns[prompt, i], returns[prompt, j]
        assert matrix[prompt, i, j] == pytest.approx(
            math.exp(r_i) / (math.exp(r_i) + math.exp(r_j)), abs=1e-15
        )


@given(st.lists(st.floats(-800.0, 800.0), min_size=2, max_size=5))
def test_both_sides_of_a_preference_make_one(utilities):
    matrix = bradley_terry_matrix(np.array(utilities))
    assert np.isfinite(matrix).all()
    np.testing.assert_allclose(matrix + matrix.T, 1.0, rtol=0.0, atol=1e-15)
    np.testing.assert_array_equal(np.diagonal(matrix), 0.5)


# From sequences to steps ----------------------------------------------------------------------------------


@given(st.integers(0, 1000))
def test_steps_and_sequences_are_one_policy(seed):
    env = make((3, 3, 2))
    log_probs = np.random.default_rng(seed).normal(0.0, 3.0, (2, 27))
    steps = env.step_policy(log_probs)
    back = env.sequence_log_probs(steps)
    normal = log_probs - np.log(np.exp(log_probs).sum(1, keepdims=True))
    np.testing.assert_allclose(back, normal, rtol=0.0, atol=1e-10)
    policy = some_policy(env, seed)
    again = env.step_policy(env.sequence_log_probs(policy))
    inner = ~env.tabular_model().terminal
    np.testing.assert_allclose(again[inner], policy[inner], rtol=0.0, atol=1e-10)


def test_sequences_that_never_occur():
    env = make((2, 2, 1))
    steps = env.step_policy([[-np.inf, -np.inf, 0.0, -np.inf]])
    assert steps.tolist() == [[0.0, 1.0], [0.5, 0.5], [1.0, 0.0], *[[0.5, 0.5]] * 4]
    assert env.sequence_log_probs(steps).tolist() == [[-np.inf, -np.inf, 0.0, -np.inf]]
    # A reference that never says token 0 first: the optimum does not either, and what does is worth nothing.
    reference = np.array([[0.0, 1.0], *[[0.5, 0.5]] * 6])
    found = env.soft_optimum(0.5, reference)
    assert np.isneginf(found.log_probs[0, :2]).all()
    assert np.exp(found.log_probs).sum() == pytest.approx(1.0)
    np.testing.assert_allclose(env.regularized_value(found.policy, 0.5, reference), found.value)
    assert env.regularized_value(np.full((7, 2), 0.5), 0.5, reference).tolist() == [-np.inf]


def test_trees_come_in_batches():
    """Any leading axes: two layouts of three prompts, one reference for all."""
    trees = [make((2, 3, 3), seed) for seed in (0, 1)]
    batch = SequenceTree(np.stack([env.tree.rewards for env in trees]), 2, 3)
    reference = np.random.default_rng(0).dirichlet(np.ones(2), 15)
    found = batch.soft_optimum(0.3, reference)
    assert [table.shape for table in found] == [(2, 3, 8), (2, 3, 15, 2), (2, 3, 15), (2, 3)]
    for i, env in enumerate(trees):
        one = env.soft_optimum(0.3, np.tile(reference, (3, 1)))
        np.testing.assert_allclose(found.log_probs[i], one.log_probs, rtol=0.0, atol=1e-12)
        np.testing.assert_allclose(found.policy[i].reshape(-1, 2), one.policy, rtol=0.0, atol=1e-12)
        np.testing.assert_array_equal(batch.preference_matrix()[i], env.preference_matrix())
        np.testing.assert_array_equal(batch.optimal_values()[i].ravel(), env.optimal_value())
    assert TabularMDP.stack([env.tabular_model() for env in trees]).num_mdps == 2


# Errors at the door ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"vocabulary": 1}, "vocabulary is 1; it must be at least 2"),
        ({"vocabulary": 2.0}, "vocabulary is 2.0"),
        ({"depth": 0}, "depth is 0"),
        ({"depth": True}, "depth is True"),
        ({"prompts": "a"}, "prompts is 'a'"),
        ({"vocabulary": 10, "depth": 6}, f"vocabulary 10, depth 6, prompts 2 make more than {MAX_NODES}"),
        ({"depth": 10**9}, "depth 1000000000.* make more than"),
        ({"vocabulary": 10**9, "depth": 20}, "make more than"),
        ({"prompts": 10**12}, "make more than"),
        ({"layout_seed": -1}, "layout_seed is -1; it must be a whole number, not negative"),
        ({"layout_seed": 0.5}, "layout_seed is 0.5"),
        ({"layout_seed": None}, "layout_seed is None"),
    ],
)
def test_wrong_arguments_are_named(kwargs, message):
    for maker in (gym.make, gym.make_vec, lambda i, **k: prefrl.envs.make_device(i, 2, **k)):
        with pytest.raises(ValueError, match=message):
            maker("prefrl/TokenTree-v0", **kwargs)


@pytest.mark.parametrize("prompt", [2, -1, True, 0.0, "a"])
def test_a_prompt_must_be_there(prompt):
    for env in (gym.make("prefrl/TokenTree-v0"), prefrl.envs.make_device("prefrl/TokenTree-v0", 2)):
        with pytest.raises(ValueError, match=f"prompt is {prompt!r}; it must be a whole number from 0 to 1"):
            env.reset(options={"prompt": prompt})
        with pytest.raises(ValueError, match=r"\['cell'\] are unknown; allowed are \['prompt'\]"):
            env.reset(options={"cell": 0})


def test_wrong_policies_are_named():
    env = make((2, 2, 2))
    even = np.full((14, 2), 0.5)
    for wrong, message in (
        (even[:7], r"has shape \(7, 2\); it must be \[S, A\] = \[14, 2\]"),
        (even * 0.9, "must hold probabilities"),
        (even + np.array([1.0, -1.0]), "must hold probabilities"),
        (even * np.nan, "must hold probabilities"),
    ):
        for name, call in (
            ("policy", env.sequence_log_probs), ("policy", env.true_value),
            ("policy", lambda p: env.regularized_value(p, 1.0)),
            ("reference", lambda p: env.soft_optimum(1.0, p)),
            ("reference", lambda p: env.regularized_value(even, 1.0, p)),
        ):  # fmt: skip
            with pytest.raises(ValueError, match=f"^{name} {message}"):
                call(wrong)
    for beta in (0.0, -1.0, math.nan, math.inf, "1", None):
        with pytest.raises(ValueError, match=f"beta is {beta!r}"):
            env.soft_optimum(beta)
    for gamma in (-0.1, 1.1, math.nan):
        with pytest.raises(ValueError, match=f"gamma is {gamma}"):
            env.optimal_value(gamma)
    for wrong, message in (
        (np.zeros(4), r"log_probs have shape \(4,\); they must be \[P, K\] = \[2, 4\]"),
        (np.full((2, 4), np.nan), "log_probs must be finite"),
        (np.full((2, 4), -np.inf), "log_probs must be finite"),
    ):
        with pytest.raises(ValueError, match=message):
            env.step_policy(wrong)
    with pytest.raises(ValueError, match="more than 67108864 pairs"):
        make((2, 14, 1)).preference_matrix()
    with pytest.raises(ValueError, match=r"rewards have shape \(6,\); .* has 7 nodes"):
        SequenceTree(np.zeros(6), 2, 2)
    with pytest.raises(ValueError, match="rewards must be finite"):
        SequenceTree(np.full(7, np.nan), 2, 2)


# Pictures -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kwargs", [{"vocabulary": 2, "depth": 3}, {"vocabulary": 40, "depth": 2}])
def test_every_prefix_looks_like_no_other(kwargs):
    env = TokenTreeDynamics(**kwargs)
    states = range(0, int(env.single_observation_space.n), 1 if kwargs["vocabulary"] == 2 else 97)
    pictures = {env.draw({"state": np.array([state])}, 0, None).tobytes() for state in states}
    assert len(pictures) == len(states)
