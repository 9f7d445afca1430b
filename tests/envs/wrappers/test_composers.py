"""Rules of payment on every face and in every autoreset mode, their memory, and their formulas by hand."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

import prefrl.envs
from prefrl.envs.wrappers import (
    ComposeReward,
    CountNovelty,
    GatedReward,
    InformationGain,
    NeighbourNovelty,
    ShapedReward,
    VectorComposeReward,
)
from prefrl.envs.wrappers.formulas import gain_of_facts, gated, nearest_distance, potential_difference

TSP, TWENTY = "prefrl/WindowTSP-v0", "prefrl/TwentyQuestions-v0"
MODES = ["NextStep", "SameStep"]
FACES = ["device", "host", "sync"]


def make(face: str, mode: str, env_id: str, n: int = 3, **settings: Any) -> Any:
    if face == "device":
        return prefrl.envs.make_device(env_id, n, autoreset_mode=mode, **settings)
    if face == "host":
        return gym.make_vec(env_id, n, autoreset_mode=mode, **settings)
    kwargs = {
        "vectorization_mode": "sync",
        "vector_kwargs": {"autoreset_mode": gym.vector.AutoresetMode(mode)},
    }
    return gym.make_vec(env_id, n, **kwargs, **settings)


def played(env: Any, steps: int, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Obs, rewards and ends of drawn actions; of a tour, none ends before its time."""
    rng, found = np.random.default_rng(seed), []
    env.reset(seed=seed)
    for _ in range(steps):
        actions = rng.integers(env.single_action_space.n, size=env.num_envs)
        on_device = hasattr(env.unwrapped, "dynamics") and env.unwrapped.dynamics.backend.on_device
        obs, rewards, ends, *_ = env.step(torch.as_tensor(actions) if on_device else actions)
        found.append(tuple(np.asarray(values) for values in (obs, rewards, ends)))
    return found


def test_the_gate_picks_the_best_that_is_feasible() -> None:
    hard, soft = np.array([1.0, 1.0, 0.6, 0.4]), np.array([0.2, 0.5, 0.8, 1.9])
    assert int((hard + soft).argmax()) == 3
    assert int(gated(hard, soft, 50.0, 0.9).argmax()) == 1
    assert gated(np.array([0.9]), np.array([2.0]), 50.0, 0.9)[0] == pytest.approx(0.9 + 1.0)  # half at tau
    assert gated(np.array([-1e6]), np.array([2.0]), 50.0, 0.9)[0] == -1e6  # no overflow


def test_formulas_by_hand() -> None:
    before, after, ends = np.array([1.0, 2.0]), np.array([3.0, 5.0]), np.array([False, True])
    assert potential_difference(before, after, ends, 0.5).tolist() == [0.5, -2.0]
    memory = np.array([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]])
    assert nearest_distance(np.zeros((1, 2)), memory, 2).tolist() == [1.0]
    assert nearest_distance(np.zeros((1, 2)), memory, 3).tolist() == [5.0]
    known = np.array([[False, True]]), np.array([[True, True]])
    assert gain_of_facts(*known, np.array([[0.7, 0.1]])).tolist() == [0.7]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("face", FACES)
def test_an_episode_earns_the_gated_sum_of_its_parts(face: str, mode: str) -> None:
    env = VectorComposeReward(make(face, mode, TSP, layout_seed=3), GatedReward(k=9.0, tau=0.5))
    task, rng = gym.make(TSP, layout_seed=3).unwrapped, np.random.default_rng(0)
    env.reset(seed=0)
    for _ in range(3):
        tours = rng.integers(5, size=(3, 5))
        earned = np.zeros(3)
        for column in tours.T:
            _, rewards, ends, *_ = env.step(torch.as_tensor(column) if face == "device" else column)
            earned += np.asarray(rewards)
        assert np.asarray(ends).all()
        hard, soft = task.score(tours).T  # type: ignore[attr-defined]
        np.testing.assert_allclose(earned, gated(hard, soft, 9.0, 0.5), atol=1e-5)
        if mode == "NextStep":
            paused = env.step(
                torch.zeros(3, dtype=torch.int64) if face == "device" else np.zeros(3, dtype=int)
            )
            assert np.asarray(paused[1]).tolist() == [0.0, 0.0, 0.0]


def test_the_scalar_face_pays_the_same_and_passes_the_checker() -> None:
    env = ComposeReward(gym.make(TSP, layout_seed=3), GatedReward(k=9.0, tau=0.5))
    check_env(env, skip_render_check=True)
    for tour in ([0, 1, 2, 3, 4], [4, 4, 1, 0, 2]):
        env.reset(seed=0)
        steps = [env.step(city) for city in tour]
        hard, soft = env.unwrapped.score(np.array([tour])).T  # type: ignore[attr-defined]
        assert sum(step[1] for step in steps) == pytest.approx(gated(hard, soft, 9.0, 0.5)[0])
        assert sum(step[4]["true_reward"] for step in steps) == pytest.approx(hard[0] + 2.0 * soft[0])


@pytest.mark.parametrize("mode", [*MODES, "Disabled"])
def test_potentials_telescope_over_every_episode(mode: str) -> None:
    envs = gym.make_vec("prefrl/Delivery-v0", 4, autoreset_mode=mode, max_episode_steps=6)
    env = VectorComposeReward(envs, ShapedReward(lambda obs: obs / 10.0, 1.0))
    first, _ = env.reset(seed=0)
    sums, starts, checked = np.zeros(4), first.copy(), 0
    paused = np.zeros(4, dtype=bool)
    rng = np.random.default_rng(0)
    for _ in range(60):
        obs, rewards, ends, cut, infos = env.step(rng.integers(4, size=4))
        sums += rewards - infos["true_reward"]
        done, last = ends | cut, obs.copy()
        if mode == "SameStep" and done.any():
            last = np.where(done, infos["final_obs"], obs)
        for row in np.flatnonzero(done & ~paused):
            reached = 0.0 if ends[row] else last[row] / 10.0
            assert sums[row] == pytest.approx(reached - starts[row] / 10.0)
            checked += 1
        if mode == "NextStep":
            restarted, paused = paused, done
        elif mode == "SameStep":
            restarted = done
        else:
            restarted = done
            if done.any():
                obs, _ = env.reset(options={"reset_mask": done})
        sums[restarted], starts[restarted] = 0.0, obs[restarted]
    assert checked >= 20


@pytest.mark.parametrize("face", ["device", "host"])
def test_what_was_often_reached_is_paid_less(face: str) -> None:
    env = VectorComposeReward(make(face, "SameStep", "prefrl/Delivery-v0", 2), CountNovelty(100, 2.0))
    env.reset(seed=0, options={"cell": (0, 0)})
    right = torch.full((2,), 3) if face == "device" else np.full(2, 3)
    left = right - 1
    paid = []
    for actions in (right, left, right):
        _, rewards, _, _, infos = env.step(actions)
        paid.append(np.asarray(rewards - infos["true_reward"]).tolist())
    once = 2.0 / np.sqrt(2.0)  # both rows reach the same cell
    np.testing.assert_allclose(paid, [[once] * 2, [once] * 2, [1.0] * 2], rtol=1e-6)


@pytest.mark.parametrize("face", ["device", "host"])
def test_what_is_far_from_all_that_is_remembered_is_paid(face: str) -> None:
    rule = NeighbourNovelty(neighbours=2, memory=5, scale=3.0)
    env = VectorComposeReward(make(face, "SameStep", "prefrl/MountainCar-v0", 3), rule)
    memory: np.ndarray = np.zeros((0, 2))
    for obs, rewards, _ in played(env, 8):
        expected = np.full(3, -1.0)
        if len(memory) >= 2:
            apart = np.linalg.norm(obs[:, None] - memory[None], axis=-1)
            expected += 3.0 * np.sort(apart, axis=1)[:, 1]
        np.testing.assert_allclose(rewards, expected, atol=1e-5)
        memory = np.concatenate([memory, obs])[-5:]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("face", FACES)
def test_questions_are_paid_by_what_they_reveal(face: str, mode: str) -> None:
    importance = np.arange(16.0 * 8.0).reshape(16, 8) / 100.0
    rule = InformationGain(importance, alpha=2.0, beta=0.5, answer=3.0)
    env = VectorComposeReward(make(face, mode, TWENTY), rule)
    _, infos = env.reset(seed=0)
    items = np.asarray(infos["item"])

    def step(actions: np.ndarray) -> np.ndarray:
        return np.asarray(env.step(torch.as_tensor(actions) if face == "device" else actions)[1])

    np.testing.assert_allclose(step(np.array([1, 2, 3])), 2.0 * importance[items, [1, 2, 3]], rtol=1e-5)
    np.testing.assert_allclose(
        step(np.array([1, 5, 3])), 2.0 * importance[items, [1, 5, 3]] * [0, 1, 0], rtol=1e-5
    )
    known = importance[items, [1, 2, 3]] + [0.0, importance[items[1], 5], 0.0]
    guesses = np.array([items[0], items[1], (items[2] + 1) % 16])
    np.testing.assert_allclose(step(8 + guesses), (3.0 + 0.5 * known) * [1, 1, 0], rtol=1e-5)


def test_rules_follow_each_other() -> None:
    env = ComposeReward(
        gym.make(TSP, layout_seed=3), (GatedReward(9.0, 0.5), ShapedReward(lambda obs: obs[:, -1], 1.0))
    )
    alone = ComposeReward(gym.make(TSP, layout_seed=3), GatedReward(9.0, 0.5))
    env.reset(seed=0)
    alone.reset(seed=0)
    obs, reward, *_ = env.step(2)
    assert reward == pytest.approx(alone.step(2)[1] + obs[-1])


@pytest.mark.parametrize("face", ["device", "host"])
def test_a_run_goes_on_where_it_stopped(face: str) -> None:
    def made() -> Any:
        rules = (GatedReward(9.0, 0.5), NeighbourNovelty(2, 7))
        return VectorComposeReward(make(face, "SameStep", TSP), rules)

    def steps(env: Any, count: int, seed: int) -> list[list[float]]:
        rng = np.random.default_rng(seed)
        found = []
        for _ in range(count):
            actions = rng.integers(5, size=3)
            found.append(
                np.asarray(env.step(torch.as_tensor(actions) if face == "device" else actions)[1]).tolist()
            )
        return found

    env, other = made(), made()
    env.reset(seed=0)
    steps(env, 7, 1)
    state = env.state_dict()
    expected = steps(env, 8, 2)
    other.reset(seed=5)
    other.load_state_dict(state)
    assert steps(other, 8, 2) == expected


def test_an_agent_trains_and_resumes_on_composed_rewards(tmp_path: Any) -> None:
    from prefrl.agents import QLearning
    from prefrl.run.folder import RunFolder
    from prefrl.run.loop import learn

    def agent() -> QLearning:
        env = prefrl.envs.make_device("prefrl/Delivery-v0", 4, max_episode_steps=9)
        return QLearning(VectorComposeReward(env, CountNovelty(100)), device="cpu")

    whole, first = agent(), agent()
    learn(whole, 80)
    folder = RunFolder.create(tmp_path / "run", {"recipe": "q_learning", "config": {}}, quiet=True)
    learn(first, 80, folder=folder, checkpoint_every=40, callback=lambda *_: first.num_timesteps < 44)
    second = agent()
    learn(second, 80, folder=RunFolder.open(folder.path, quiet=True), resume=True)
    assert torch.equal(whole.q, second.q)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: GatedReward(k=0.0), "k is 0.0"),
        (lambda: GatedReward(tau=float("inf")), "tau is inf"),
        (lambda: GatedReward(hard=-1), "hard is -1"),
        (lambda: ShapedReward(lambda obs: obs, 1.5), "gamma is 1.5"),
        (lambda: CountNovelty(0), "num_observations is 0"),
        (lambda: CountNovelty(5, 0.0), "scale is 0.0"),
        (lambda: NeighbourNovelty(5, 4), "memory is 4"),
        (lambda: InformationGain(np.zeros(3)), r"importance has shape \(3,\)"),
        (lambda: InformationGain(np.zeros((2, 2)), beta=float("nan")), "beta is nan"),
        (lambda: ComposeReward(gym.make(TSP), []), r"rules are \[\]"),
        (lambda: VectorComposeReward(gym.make_vec(TSP, 2), lambda step: 0.0), "rules are"),  # type: ignore[arg-type]
    ],
)
def test_wrong_arguments_are_refused(made: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        made()


@pytest.mark.parametrize(
    ("env_id", "rule", "said"),
    [
        ("prefrl/CartPole-v0", GatedReward(), "info has no 'reward_vector'"),
        (TSP, GatedReward(soft=2), "info's reward_vector has shape"),
        (TSP, CountNovelty(9), "CountNovelty takes whole numbers"),
        (TSP, InformationGain(np.zeros((2, 30))), "importance asks for 30 columns"),
    ],
)
def test_what_the_environment_does_not_tell_is_missed(env_id: str, rule: Any, said: str) -> None:
    for env in (ComposeReward(gym.make(env_id), rule), VectorComposeReward(gym.make_vec(env_id, 1), rule)):
        env.reset(seed=0)
        with pytest.raises(ValueError, match=said):
            env.step(0 if isinstance(env, ComposeReward) else np.zeros(1, dtype=np.int64))
