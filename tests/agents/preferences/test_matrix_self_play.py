"""Self-play on matrices: S1 exactly, S2 with sampled comparisons, and the reward model's corner."""

import json
import math

import pytest
import torch

from prefrl.agents import MatrixSelfPlay, MatrixSelfPlayConfig, NashLearning, NashLearningConfig, load
from prefrl.functional.preferences.games import cycle_of_three, exploitability, minimax_winner
from prefrl.run.loop import learn

ROUNDS = 6_000


def played(mode, matrix, seed=0, rounds=ROUNDS, **settings):
    config = MatrixSelfPlayConfig(mode=mode, rounds=rounds, **settings)
    agent = MatrixSelfPlay(None, config, matrix=matrix, device="cpu", seed=seed)
    for _ in range(rounds):
        agent.update()
    return agent


def test_hedge_finds_the_winner():
    matrix = cycle_of_three(0.9, 0.3, 0.6)
    agent = played("hedge", matrix, rounds=10_000)
    found = agent.result()
    assert found["exploitability"] <= math.sqrt(2.0 * math.log(3.0) / 10_000)
    assert float((agent.average_policy - minimax_winner(matrix)).abs().sum()) <= 0.05


@pytest.mark.slow
def test_sampled_comparisons_find_it_too_and_a_reward_model_ends_in_a_corner():
    """S2 over five seeds: the average's mean distance is at most .1, the baseline's corner at least .95."""
    generator = torch.Generator().manual_seed(1)
    distances = []
    for seed in range(5):
        strengths = (0.2 + 0.8 * torch.rand(3, generator=generator, dtype=torch.float64)).tolist()
        matrix = cycle_of_three(*strengths)
        average = played("sampled", matrix, seed, rounds=10_000).average_policy
        distances.append(float((average - minimax_winner(matrix)).abs().sum()))
        assert max(played("reward_model", matrix, seed, rounds=10_000).result()["last_policy"]) >= 0.95
    assert sum(distances) / 5 <= 0.1


@pytest.mark.slow
def test_one_seed_of_the_same():
    matrix = cycle_of_three(0.8, 0.5, 0.9)
    average = played("sampled", matrix).average_policy
    assert float((average - minimax_winner(matrix)).abs().sum()) <= 0.15
    corner = played("reward_model", matrix)
    assert max(corner.result()["last_policy"]) >= 0.9
    assert float(exploitability(matrix, corner.policy)) > 0.3


def test_an_option_that_beats_all_is_found_by_every_mode():
    matrix = torch.tensor([[0.0, -0.5, 0.2], [0.5, 0.0, 0.4], [-0.2, -0.4, 0.0]])
    for mode in ("hedge", "sampled", "reward_model"):
        assert int(played(mode, matrix, rounds=400, policy_rate=0.5).policy.argmax()) == 1, mode


@pytest.mark.parametrize("mode", ["hedge", "sampled", "reward_model"])
def test_resumes_bit_equal(mode, tmp_path):
    matrix = cycle_of_three(0.9, 0.3, 0.6)
    whole, half = played(mode, matrix, rounds=120), played(mode, matrix, rounds=60)
    half.save(tmp_path / "agent.pt")
    loaded = MatrixSelfPlay.load(tmp_path / "agent.pt", device="cpu")
    loaded._rate = whole._rate
    again = played(mode, matrix, rounds=60)
    again._rate = whole._rate
    learn(loaded, 60)
    learn(again, 60)
    assert torch.equal(loaded.average_policy, again.average_policy)


@pytest.mark.parametrize("size", [0.02, 0.5])
def test_hedge_is_that_of_nash_learning(size):
    """One step for both, here of their own and there of a step size given; and one answer, the average."""
    matrix = cycle_of_three(0.9, 0.3, 0.6)
    ours = played("hedge", matrix, rounds=2_000, learning_rate=size)
    config = NashLearningConfig(solver="hedge", beta=0.0, step_size=size)
    other = NashLearning(matrix=matrix, config=config, device="cpu")
    for _ in range(2_000):
        other.update()
    torch.testing.assert_close(ours.policy, other.last_policy[0], atol=1e-12, rtol=0.0)
    torch.testing.assert_close(ours.average_policy, other.policy[0], atol=1e-12, rtol=0.0)
    assert 2.0 * ours.result()["exploitability"] == pytest.approx(other.result()["duality_gap"], abs=1e-12)


def test_a_file_of_before_goes_on_as_it_would_have(tmp_path):
    """What the Hedge that was written out here saved after 200 of 500 rounds, and what it came to."""
    header = {
        "format": 1, "agent": "MatrixSelfPlay", "version": "0.1.0", "seed": 3, "num_timesteps": 200,
        "config": {"mode": "hedge", "rounds": 500, "learning_rate": None, "policy_rate": 0.02, "samples": 32,
                   "queue": 100, "fit_every": 50},
        "observation_space": {"kind": "Discrete", "n": 1, "start": 0},
        "action_space": {"kind": "Discrete", "n": 3, "start": 0},
    }  # fmt: skip
    zeros = torch.zeros(3, dtype=torch.float64)
    state = {
        "matrix": cycle_of_three(0.9, 0.3, 0.6),
        "logits": numbers("-0x1.809db1531976cp+1", "-0x1.dd710eecd025fp-1", "-0x1.2bb92cfa6831dp-1"),
        "total": numbers("0x1.21f03667a4761p+5", "0x1.731fc28a992ebp+5", "0x1.d5780386e12d8p+6"),
        "queue": torch.zeros(100, dtype=torch.int64), "wins": zeros.repeat(3, 1), "utility": zeros,
        "generator": torch.Generator().manual_seed(3).get_state(),
    }  # fmt: skip
    torch.save({"header": json.dumps(header), "state": state}, tmp_path / "agent.pt")
    agent = load(tmp_path / "agent.pt", device="cpu")
    assert isinstance(agent, MatrixSelfPlay)
    for _ in range(300):
        agent.update()
    policy = numbers("0x1.d4a6a5ba7a68dp-5", "0x1.0e703d2c0f228p-2", "0x1.5b7d770e50c84p-1")
    average = numbers("0x1.75bb816d51975p-3", "0x1.2ae14b009a9d8p-2", "0x1.0d207a245e4b6p-1")
    torch.testing.assert_close(agent.policy, policy, atol=1e-12, rtol=0.0)
    torch.testing.assert_close(agent.average_policy, average, atol=1e-12, rtol=0.0)


def numbers(*texts):
    return torch.tensor([float.fromhex(text) for text in texts], dtype=torch.float64)


def test_acts_by_the_average():
    agent = played("hedge", cycle_of_three(1.0, 1.0, 0.2), rounds=500)
    drawn = agent.act(torch.zeros(5_000, dtype=torch.int64))
    shares = torch.bincount(drawn, minlength=3) / 5_000
    torch.testing.assert_close(shares.double(), agent.average_policy, atol=0.03, rtol=0.0)
    assert agent.predict(0, deterministic=True)[0] == int(agent.average_policy.argmax())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MatrixSelfPlay(), "matrix is missing"),
        (lambda: MatrixSelfPlay(matrix=torch.ones(2, 2)), "not antisymmetric"),
        (lambda: MatrixSelfPlayConfig(mode="nash"), "mode is 'nash'"),
        (lambda: MatrixSelfPlayConfig(policy_rate=0.0), "policy_rate is 0.0"),
        (lambda: MatrixSelfPlayConfig(queue=0), "queue is 0"),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_state_of_another_matrix_is_refused():
    one, two = (
        played("hedge", cycle_of_three(1, 1, 1), rounds=2),
        played("hedge", cycle_of_three(1, 1, 0.5), rounds=2),
    )
    with pytest.raises(ValueError, match="another preference matrix"):
        two.load_state_dict(one.state_dict())
