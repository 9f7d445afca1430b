"""Input models, and files of requests."""

import math

import gymnasium as gym
import numpy as np
import pytest

import prefrl.envs
from prefrl.envs.allocation.problems import AssortmentOffer, SecondPriceBid, SingleChoice
from prefrl.envs.allocation.request_streams import check_requests

SECRETARY = "prefrl/MultiSecretary-v0"


def stream(env_id=SECRETARY, seed=0, **settings):
    """All requests [T, columns] of an episode."""
    env = gym.make(env_id, **settings).unwrapped
    env.reset(seed=seed)
    return env.requests()


def test_periodic_scales_the_rewards_of_independent_draws():
    base, ours = stream(horizon=50), stream(horizon=50, input_model="periodic", period=10)
    t = np.arange(50)
    factor = (3.0 + np.sin(2.0 * math.pi * t / 10)) / 4.0
    np.testing.assert_allclose(ours[:, 0], base[:, 0] * factor)
    assert (ours[:, 1] == 1.0).all(), "consumption is left alone"
    assert factor.min() >= 0.5
    assert factor.max() <= 1.0


def test_drift_rises_in_a_line():
    base, ours = stream(horizon=20), stream(horizon=20, input_model="drift", drift_start=0.2)
    np.testing.assert_allclose(ours[:, 0] / base[:, 0], 0.2 + 0.8 * np.arange(20) / 20)


@pytest.mark.parametrize(("rounds", "expected"), [(None, 10), (0, 0), (7, 7)])
def test_corrupted_pays_all_it_can_at_first(rounds, expected):
    base = stream(horizon=100)
    ours = stream(horizon=100, input_model="corrupted", corrupted_rounds=rounds)
    assert (ours[:expected, 0] == 1.0).all()
    np.testing.assert_array_equal(ours[expected:], base[expected:])
    revenue = stream("prefrl/NetworkRevenue-v0", horizon=30, input_model="corrupted")
    assert (revenue[:5, :5] == 10.0).all()
    assert (revenue[5:, :5] < 10.0).all()


def test_ergodic_keeps_what_is_seen_and_draws_what_is_not():
    requests = stream("prefrl/SecondPriceBudget-v0", horizon=4000, input_model="ergodic", persistence=0.8)
    same = requests[1:] == requests[:-1]
    assert abs(same[:, 0].mean() - 0.8) < 0.03
    assert not same[:, 1].any(), "the rival always bids anew"
    long = stream("prefrl/MultiSecretary-v0", horizon=20_000, input_model="ergodic", persistence=0.5)
    assert abs(long[:, 0].mean() - 0.5) < 0.02, "the distribution is the stationary distribution"
    assert abs(np.mean(long[:, 0] < 0.3) - 0.3) < 0.02


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"input_model": "chaos"}, "input_model is 'chaos'; allowed are iid, periodic"),
        ({"input_model": "replay"}, "no requests to replay"),
        ({"period": 0}, "period is 0"),
        ({"persistence": 1.0}, r"persistence is 1.0; it must lie in \[0, 1\)"),
        ({"persistence": "high"}, "persistence is 'high'"),
        ({"drift_start": 1.5}, r"drift_start is 1.5; it must lie in \[0, 1\]"),
        ({"corrupted_rounds": 1001}, "corrupted_rounds is 1001; it must be a whole number from 0 to the"),
        ({"input_model": "drift", "requests": [[0.5, 1.0]]}, "input_model is 'drift', but requests"),
        ({"rho": 0}, "rho is 0; budgets per request must be positive and finite"),
        ({"rho": -0.5}, "rho is -0.5"),
        ({"rho": float("nan")}, "rho is nan"),
        ({"rho": [0.5, 0.5]}, r"rho has shape \(2,\); give one number"),
        ({"rho": "much"}, "rho is 'much'"),
        ({"rho": 1e-4}, "every request consumes more: nothing could be served"),
        ({"horizon": 0}, "horizon is 0"),
        ({"horizon": 2.5}, "horizon is 2.5"),
        ({"stop_when_empty": "no"}, "stop_when_empty is 'no'"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    for make in (gym.make, prefrl.envs.make_device):
        arguments = {"num_envs": 2} if make is prefrl.envs.make_device else {}
        with pytest.raises(ValueError, match=message):
            make(SECRETARY, **arguments, **settings)


@pytest.mark.parametrize(
    ("env_id", "settings", "message"),
    [
        ("NetworkRevenue", {"m": 0}, "m is 0"),
        ("NetworkRevenue", {"d": 1.5}, "d is 1.5"),
        ("NetworkRevenue", {"sd": -1.0}, "sd is -1.0"),
        ("NetworkRevenue", {"instance_seed": -1}, "instance_seed is -1"),
        ("NetworkRevenue", {"m": 2, "rho": [0.1, 0.0]}, "must be positive"),
        ("AdversarialKnapsack", {"alpha": 0.5}, "alpha is 0.5"),
        ("AdversarialKnapsack", {"eps": 0.0}, "eps is 0.0"),
        ("AdversarialKnapsack", {"eps": "small"}, "eps is 'small'"),
        ("EntropyMatching", {"lam": 0.0}, "lam is 0.0"),
        ("EntropyMatching", {"types": 0}, "types is 0"),
        ("AssortmentMNL", {"segments": 0}, "segments is 0"),
    ],
)
def test_wrong_settings_of_the_families_are_refused(env_id, settings, message):
    with pytest.raises(ValueError, match=message):
        gym.make(f"prefrl/{env_id}-v0", **settings)


# Files ---------------------------------------------------------------


CHOICE = SingleChoice(reward_bound=1.0, m=1, d=2)
TABLE = np.array([[0.5, 0.25, 1.0, 2.0], [3.0, 0.0, 0.5, 1.5], [0.1, 0.2, 0.3, 0.4]])


def test_csv_and_npz_hold_the_same_requests(tmp_path):
    csv = tmp_path / "requests.csv"
    order = [2, 0, 3, 1]  # columns may stand in any order, and blank lines and spaces do no harm
    rows = [", ".join(CHOICE.columns[i] for i in order)]
    rows += [",".join(str(row[i]) for i in order) for row in TABLE]
    csv.write_text("\ufeff" + "\n".join(rows) + "\n\n", "utf-8")
    np.savez(tmp_path / "whole.npz", requests=TABLE)
    np.savez(tmp_path / "columns.npz", **dict(zip(CHOICE.columns, TABLE.T, strict=True)))
    for given in (csv, str(csv), tmp_path / "whole.npz", tmp_path / "columns.npz", TABLE, TABLE.tolist()):
        np.testing.assert_array_equal(check_requests(given, CHOICE, 3), TABLE)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; its first line must be reward_0,reward_1,consumption_0_0,consumption_0_1"),
        ("reward_0,reward_1\n1,2\n", "has the columns reward_0, reward_1; they must be"),
        ("reward_0,reward_1,consumption_0_0,other\n1,2,3,4\n", "has the columns"),
        ("HEADER\n1,2,3\n", "request 0 has 3 entries; the header has 4"),
        ("HEADER\n1,2,3,4\n1,2,x,4\n", "consumption_0_0 of request 1 is 'x'; it must be a number"),
        ("HEADER\n1,nan,3,4\n", "reward_1 of request 0 is nan; it must be finite and not negative"),
        ("HEADER\n1,inf,3,4\n", "reward_1 of request 0 is inf"),
        ("HEADER\n1,1e39,3,4\n", "reward_1 of request 0 is 1e\\+39; it must be finite"),
        ("HEADER\n1,2,3,-4\n", "consumption_0_1 of request 0 is -4.0"),
        ("HEADER\n0,0,3,4\n", "no request pays anything"),
        ("HEADER\n", r"has shape \(0, 4\)"),
        ('HEADER\n"1,2,3,4\n', "damaged or no CSV file"),
    ],
)
def test_bad_csv_files_are_refused(tmp_path, text, message):
    path = tmp_path / "requests.csv"
    path.write_text(text.replace("HEADER", ",".join(CHOICE.columns)), "utf-8")
    with pytest.raises(ValueError, match=message):
        check_requests(path, CHOICE, None)


def test_bad_npz_files_are_refused(tmp_path):
    def refused(message, **arrays):
        path = tmp_path / "requests.npz"
        np.savez(path, **arrays)
        with pytest.raises(ValueError, match=message):
            check_requests(path, CHOICE, None)

    refused(r"has shape \(3, 3\)", requests=TABLE[:, :3])
    refused("its dtype is '<U1'; allowed are uint8", requests=np.array([["a"] * 4]))
    refused("has the columns reward_0", reward_0=TABLE[:, 0])
    columns = dict(zip(CHOICE.columns, TABLE.T, strict=True))
    refused("arrays of the shapes", **{**columns, "reward_0": TABLE[:2, 0]})
    np.savez(tmp_path / "pickle.npz", requests=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match=r"pickle\.npz: .* its dtype is '\|O'"):
        check_requests(tmp_path / "pickle.npz", CHOICE, None)
    np.save(tmp_path / "array.npy", TABLE)
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    with pytest.raises(ValueError, match=r"no \.npz file of numbers"):
        check_requests(tmp_path / "array.npz", CHOICE, None)
    np.savez_compressed(tmp_path / "cut.npz", requests=np.random.default_rng(0).random((500, 4)))
    damaged = bytearray((tmp_path / "cut.npz").read_bytes())
    damaged[300:400] = bytes(100)
    (tmp_path / "cut.npz").write_bytes(damaged)
    with pytest.raises(ValueError, match=r"no \.npz file of numbers"):
        check_requests(tmp_path / "cut.npz", CHOICE, None)
    (tmp_path / "text.npz").write_text("text")
    with pytest.raises(ValueError, match=r"no \.npz file of numbers"):
        check_requests(tmp_path / "text.npz", CHOICE, None)
    with pytest.raises(ValueError, match=r"must end in .csv or .npz"):
        check_requests(tmp_path / "requests.json", CHOICE, None)
    with pytest.raises(FileNotFoundError):
        check_requests(tmp_path / "none.csv", CHOICE, None)
    with pytest.raises(ValueError, match="no array of numbers"):
        check_requests([["a"]], CHOICE, None)


def test_the_horizon_serves_all_requests_of_a_file():
    with pytest.raises(ValueError, match="the horizon, 2, is shorter than requests, which has 3"):
        check_requests(TABLE, CHOICE, 2)
    with pytest.raises(ValueError, match="the horizon, 4, is longer than requests, which has 3"):
        check_requests(TABLE, CHOICE, 4)


def test_hidden_columns_are_checked_too():
    auction = SecondPriceBid(reward_bound=1.0)
    with pytest.raises(ValueError, match="rival_bid of request 0 is -1"):
        check_requests([[0.5, -1.0]], auction, None)
    shop = AssortmentOffer(reward_bound=1.0, d=1, attraction_bound=1.0)
    with pytest.raises(ValueError, match=r"choice of request 0 is 1.0; it must lie in \[0, 1\)"):
        check_requests([[0.5, 1.0, 1.0]], shop, None)


def test_requests_are_replayed_with_their_own_bounds(tmp_path):
    """Rewards and consumption of a file may be of any size."""
    table = np.array([[250.0, 3.0], [100.0, 0.5], [900.0, 2.0], [10.0, 1.0]])
    np.savez(tmp_path / "r.npz", requests=table)
    env = gym.make(SECRETARY, requests=str(tmp_path / "r.npz"), rho=1.0)
    obs, _ = env.reset(seed=0)
    assert env.observation_space.contains(obs)
    np.testing.assert_allclose(obs["request"], table[0])
    rewards = [env.step(1)[1] for _ in range(4)]
    assert rewards == [250.0, 100.0, 0.0, 0.0], "3.5 of 4 are spent: 2 is too much, and so is 1"
    assert env.unwrapped.hindsight_optimum() == pytest.approx(900.0 + 100.0 + 250.0 * 1.5 / 3.0)
    np.testing.assert_array_equal(env.unwrapped.requests(), table)
    with pytest.raises(ValueError, match="every request consumes more"):
        gym.make(SECRETARY, requests=table, rho=0.1)
    rows = prefrl.envs.make_device(SECRETARY, 3, requests=table, rho=1.0, seed=0)
    np.testing.assert_array_equal(rows.requests(), np.repeat(table[:, None], 3, axis=1))
