"""Nash learning: equilibria of matrices and of sequences, answers by solver, steps, files, runs, refusals."""

import json
import math
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

import prefrl.envs
from prefrl.agents import NashLearning, NashLearningConfig, load
from prefrl.agents.preferences.games.nash_learning_config import DESCENDING, REGRESSING
from prefrl.cli import main
from prefrl.functional.preferences.game_steps import SOLVERS, Game, duality_gap
from prefrl.functional.preferences.games import cycle_of_three, exploitability
from prefrl.tabular import nash_equilibrium

assert prefrl.envs.REGISTRY
TREE, BANDIT = "prefrl/TokenTree-v0", "prefrl/PreferenceBandit-v0"
CYCLE = cycle_of_three(0.9, 0.3, 0.6)
WINNER = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64) / 6.0
LAST = ("egpo", "omd", "inpo", "onpo", "mnpo", "dno", "gpo")


def solved(steps, env=None, matrix=None, reference=None, seed=0, **settings):
    config = NashLearningConfig(**settings)
    agent = NashLearning(env, config, matrix=matrix, reference=reference, device="cpu", seed=seed)
    for _ in range(steps):
        agent.update()
    return agent


@pytest.mark.parametrize("solver", list(SOLVERS))
def test_every_solver_on_a_cycle(solver):
    """With beta .1 (regret matching: 0) last policies are there; Nash-MD's and averages are near."""
    beta = 0.1 if SOLVERS[solver].regularised else 0.0
    agent = solved(1_500, matrix=CYCLE, solver=solver, beta=beta)
    found, wanted = agent.result(), nash_equilibrium(Game(CYCLE, torch.zeros(3).log_softmax(-1), beta)).exp()
    most = 1e-12 if solver in LAST else 0.03
    assert 0.0 <= found["duality_gap"] <= most
    assert (
        found["duality_gap"] == found["last_iterate_gap" if solver in (*LAST, "nash_md") else "average_gap"]
    )
    assert (torch.tensor(found["policy"]) - wanted).abs().max() < (1e-6 if solver in LAST else 0.1)
    assert found["policy"] == agent.policy[0].tolist()


def test_without_a_regulariser_it_finds_the_minimax_winner():
    for solver in ("egpo", "onpo", "optimistic_hedge"):
        agent = solved(3_000, matrix=CYCLE, solver=solver, beta=0.0)
        torch.testing.assert_close(agent.policy[0], WINNER, atol=2e-3, rtol=0.0)
        assert agent.result()["duality_gap"] == pytest.approx(
            2 * float(exploitability(CYCLE, agent.policy[0]))
        )


def test_payoffs_are_taken_as_they_are():
    with pytest.warns(UserWarning, match=r"as large as 9.*0\.333.*give 0\.037"):
        solved(0, matrix=10.0 * CYCLE, beta=0.0)
    agent = solved(3_000, matrix=10.0 * CYCLE, beta=1.0, step_size=1.0 / 28.0)
    same = solved(3_000, matrix=CYCLE, beta=0.1, step_size=10.0 / 28.0)
    torch.testing.assert_close(agent.policy, same.policy)
    assert agent.result()["average_gap"] == pytest.approx(10.0 * same.result()["average_gap"])


def test_a_reference_of_ones_own():
    reference = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    agent = solved(400, matrix=CYCLE, reference=reference, beta=0.5)
    wanted = nash_equilibrium(Game(CYCLE, reference.log(), 0.5))
    torch.testing.assert_close(agent.policy[0], wanted.exp(), atol=1e-12, rtol=0.0)
    torch.testing.assert_close(solved(0, matrix=CYCLE, reference=reference).policy[0], reference)


def test_in_a_tree_of_sequences():
    """Sequences have the equilibrium's probabilities, and so has what is done step by step."""
    env = gym.make(TREE, layout_seed=2)
    task = env.unwrapped
    agent = solved(500, env=env)
    a = torch.as_tensor(task.preference_matrix()) - 0.5
    game = Game(a, torch.zeros(2, 81, dtype=torch.float64).log_softmax(-1), 0.1)
    wanted = nash_equilibrium(game)
    torch.testing.assert_close(agent.policy, wanted.exp(), atol=1e-6, rtol=0.0)
    assert agent.result()["duality_gap"] == pytest.approx(float(duality_gap(game, agent.policy.log()).mean()))
    assert np.shape(agent.result()["policy"]) == (2, 81)
    table = agent.step_policy().numpy()
    np.testing.assert_allclose(table, task.step_policy(agent.policy.log().numpy()), atol=1e-12)
    np.testing.assert_allclose(np.exp(task.sequence_log_probs(table)), agent.policy.numpy(), atol=1e-12)


def test_steps_where_some_sequences_never_come():
    """All on one arm of two tokens: even after what is never said."""
    env = gym.make(TREE, vocabulary=2, depth=2, prompts=1)
    agent = solved(0, env=env)
    agent.play = agent.play._replace(policy=torch.tensor([[-math.inf, 0.0, -math.inf, -math.inf]]).double())
    assert agent.step_policy().tolist() == [[1.0, 0.0], [0.0, 1.0], [0.5, 0.5], *[[0.5, 0.5]] * 4]


def test_in_a_bandit_whose_arms_go_in_a_circle():
    env = gym.make(BANDIT, arms=5, contexts=3, preferences="intransitive")
    agent = solved(800, env=env, beta=0.05)
    assert agent.result()["duality_gap"] < 1e-12
    obs = torch.arange(3).repeat_interleave(4_000) * 6
    drawn = agent.act(obs).view(3, -1)
    for context in range(3):
        shares = torch.bincount(drawn[context], minlength=5) / 4_000
        torch.testing.assert_close(shares.double(), agent.policy[context], atol=0.03, rtol=0.0)
    assert agent.predict(6, deterministic=True)[0] == int(agent.policy[1].argmax())


@pytest.mark.parametrize("solver", DESCENDING)
def test_a_table_of_one_step_descends_as_the_exact_solver_steps(solver):
    """Half step, weights put back, full step: with the step s beta K / 4 they are mirror descent's."""
    reference = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
    given = {"matrix": CYCLE, "reference": reference, "solver": solver, "beta": 0.2}
    for steps in (0, 1, 40):
        table, exact = solved(steps, **given, policy="table"), solved(steps, **given)
        torch.testing.assert_close(table.policy, exact.policy, atol=1e-13, rtol=0.0)
        torch.testing.assert_close(table.average_policy, exact.average_policy, atol=1e-13, rtol=0.0)


def test_a_table_of_one_step_goes_round_with_omd_and_settles_with_egpo():
    reference = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    given = {"matrix": 0.5 * cycle_of_three(1, 1, 1), "reference": reference, "beta": 0.01, "policy": "table"}
    assert solved(4_000, **given, solver="egpo").result()["duality_gap"] < 1e-10
    assert solved(4_000, **given, solver="omd").result()["duality_gap"] > 0.1


def test_so_does_a_network_that_descends_plainly():
    """Steps a sixth of a table's; with Adam EGPO goes round too."""
    reference = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    given = {"matrix": 0.5 * cycle_of_three(1, 1, 1), "reference": reference, "beta": 0.01, "hidden": (32,)}
    gaps = {}
    for name, solver, more in (
        ("egpo", "egpo", {"optimizer": "gradient", "learning_rate": 4e-4}),
        ("omd", "omd", {"optimizer": "gradient", "learning_rate": 4e-4}),
        ("adam", "egpo", {}),
    ):
        agent = solved(1_500, **given, policy="network", solver=solver, **more)
        gaps[name] = agent.result()["duality_gap"]
    assert gaps["egpo"] < 1e-6 < 1e-2 < gaps["omd"], gaps
    assert gaps["adam"] > 0.1, gaps


@pytest.mark.parametrize("policy", ["table", "network"])
def test_policies_of_steps_find_the_equilibrium_of_sequences(policy):
    env = gym.make(TREE, layout_seed=1, prompts=1)
    agent = solved(
        400,
        env=env,
        policy=policy,
        **({"hidden": (32,), "learning_rate": 0.01} if policy == "network" else {}),
    )
    a = torch.as_tensor(env.unwrapped.preference_matrix()) - 0.5
    wanted = nash_equilibrium(Game(a, torch.zeros(1, 81).double().log_softmax(-1), 0.1)).exp()
    torch.testing.assert_close(agent.policy, wanted, atol=1e-4, rtol=0.0)
    assert agent.result()["duality_gap"] < 1e-7
    if policy == "network":  # what Adam saw looking ahead is forgotten
        assert float(agent.steps.adam.states[0]["step"]) == 400.0


def test_comparisons_that_are_drawn_get_near():
    env = gym.make(TREE, vocabulary=2, depth=2)
    drawn = solved(500, env=env, policy="network", pairs=16)
    assert drawn.result()["average_gap"] < 0.01 < solved(0, env=env).result()["duality_gap"]


@pytest.mark.parametrize("beta", [0.0, 0.2])
@pytest.mark.parametrize("solver", REGRESSING)
def test_a_table_that_minimises_its_papers_loss_takes_the_solvers_steps(solver, beta):
    """Of five options, and of four sequences of two steps for two prompts; five steps, memory and all."""
    noise = 2.0 * torch.rand(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 1.0
    matrix, reference = noise.triu(1) - noise.triu(1).T, torch.tensor([0.3, 0.25, 0.2, 0.15, 0.1]).double()
    tree = gym.make(TREE, vocabulary=2, depth=2)
    for where in ({"matrix": matrix, "reference": reference}, {"env": tree}):
        given = {**where, "solver": solver, "beta": beta}
        given |= {"population": (0.5, 0.3, 0.2)} if solver == "mnpo" else {}
        exact, table = solved(5, **given), solved(5, **given, policy="table", inner_steps=150)
        torch.testing.assert_close(table.play.policy, exact.play.policy, atol=1e-6, rtol=0.0)
        torch.testing.assert_close(table.play.memory, exact.play.memory, atol=1e-6, rtol=0.0)
        far = solved(5, **given, policy="table", inner_steps=1)
        assert float((far.play.policy - exact.play.policy).abs().max()) > 1e-3


def test_the_papers_shortcuts_lead_elsewhere():
    """GPO with log Z := 0, more with longer steps; MNPO with pairs from the present policy alone."""
    off = []
    for size in (0.1, 0.4, 1.6):
        given = {"matrix": CYCLE, "solver": "gpo", "beta": 0.0, "step_size": size}
        given["reference"] = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)
        exact = solved(1, **given)
        zero = solved(1, **given, policy="table", inner_steps=300, normaliser="zero")
        off.append(float((exact.policy - zero.policy).abs().max()))
    assert 0.0 < 8.0 * off[0] < off[1] < off[2] / 8.0
    given = {"matrix": CYCLE, "solver": "mnpo", "beta": 0.1}
    exact = solved(4, **given)
    present = solved(4, **given, policy="table", inner_steps=300, mnpo_pairs="present")
    assert float((exact.policy - present.policy).abs().max()) > 1e-3


@pytest.mark.parametrize("solver", REGRESSING)
def test_a_network_that_minimises_its_papers_loss_finds_the_equilibrium(solver):
    given = {"env": gym.make(TREE, vocabulary=2, depth=2, layout_seed=1), "solver": solver, "beta": 0.3}
    given |= {"step_size": 1.0, "policy": "network", "hidden": (16,), "learning_rate": 0.01}
    found = solved(20, **given, inner_steps=16)
    assert found.result()["duality_gap"] < 1e-4 < 0.02 < solved(0, **given).result()["duality_gap"]
    drawn = solved(20, **given, inner_steps=16, pairs=32)
    assert 0.0 < drawn.result()["duality_gap"] < 0.01


def test_only_onpos_first_regression_is_kept():
    """The weights it steps from are those where its first regression ended, and not where it plays."""
    agent = solved(3, matrix=CYCLE, solver="onpo", policy="network", hidden=(8,))
    played = agent.steps.log_probs().detach()
    torch.testing.assert_close(played, agent.play.policy, atol=0.0, rtol=0.0)
    agent.steps.load_state_dict(agent._base)
    torch.testing.assert_close(agent.steps.log_probs().detach(), agent.play.memory[:, 0], atol=0.0, rtol=0.0)
    assert float((played - agent.play.memory[:, 0]).abs().max()) > 1e-3
    assert float(agent._base["step"]) == 3 * 32


GAMES = {
    **{name: {"solver": name, "beta": 0.1 if row.regularised else 0.0} for name, row in SOLVERS.items()},
    "a table": {"policy": "table", "pairs": 5},
    "a network": {"policy": "network", "hidden": (4,), "pairs": 5},
    "a network, plainly": {"policy": "network", "optimizer": "gradient", "learning_rate": 0.01},
    **{f"{name}, a table": {"solver": name, "policy": "table", "inner_steps": 3} for name in REGRESSING},
    **{
        f"{name}, a network": {
            "solver": name,
            "policy": "network",
            "hidden": (4,),
            "pairs": 5,
            "inner_steps": 3,
        }
        for name in REGRESSING
    },
    "a network, exactly": {"policy": "network", "hidden": (4, 4), "solver": "nash_md"},
}


@pytest.mark.parametrize("name", list(GAMES))
def test_saved_and_resumed_it_goes_on_to_the_bit(name, tmp_path):
    reference = torch.tensor([0.55, 0.27, 0.18], dtype=torch.float64)
    given = {"matrix": CYCLE, "reference": reference, **GAMES[name]}
    whole, half = solved(40, **given), solved(15, **given)
    half.save(tmp_path / "agent.pt")
    loaded = load(tmp_path / "agent.pt", device="cpu")
    assert isinstance(loaded, NashLearning)
    loaded.learn(25)
    assert loaded.num_timesteps == 40
    for name in ("last_policy", "average_policy", "policy"):
        assert torch.equal(getattr(loaded, name), getattr(whole, name)), name
    assert loaded.result() == whole.result()
    obs = torch.zeros(50, dtype=torch.int64)
    assert torch.equal(loaded.act(obs), whole.act(obs))


def test_runs(tmp_path: Path):
    """A matrix that is no preference matrix; a tree; killed and resumed; what evaluate says."""
    matrix = tmp_path / "game.csv"
    np.savetxt(matrix, (2.0 * CYCLE).numpy(), delimiter=",")
    out = tmp_path / "run"
    flags = [
        "train",
        "nash_learning",
        "--matrix",
        str(matrix),
        "--solver",
        "onpo",
        "--beta",
        "0.2",
        "--quiet",
    ]
    flags += ["--step-size", "0.1", "--total-timesteps", "2000", "--out", str(out)]
    assert main(flags) == 0
    result = json.loads((out / "result.json").read_text())
    assert {"duality_gap", "policy", "last_iterate_gap", "average_gap", "seconds"} <= set(result)
    assert result["duality_gap"] < 1e-12
    wanted = solved(2_000, matrix=2.0 * CYCLE, solver="onpo", beta=0.2, step_size=0.1)
    assert result["policy"] == pytest.approx(wanted.policy[0].tolist(), abs=1e-12)
    (out / "result.json").unlink()
    matrix.unlink()
    assert main(["resume", str(out)]) == 0
    assert json.loads((out / "result.json").read_text())["policy"] == result["policy"]
    assert main(["evaluate", str(out)]) == 2
    tree = tmp_path / "tree"
    flags = [
        "train",
        "nash_learning",
        "--policy",
        "network",
        "--hidden",
        "16",
        "16",
        "--pairs",
        "32",
        "--quiet",
    ]
    assert main([*flags, "--total-timesteps", "60", "--out", str(tree)]) == 0
    assert {"final_return", "duality_gap"} <= set(json.loads((tree / "result.json").read_text()))
    assert main(["evaluate", str(tree)]) == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NashLearning(), "matrix is None"),
        (lambda: NashLearning(gym.make("CartPole-v1")), r"knows no preference_matrix\(\)"),
        (lambda: NashLearning(matrix=torch.ones(2, 2)), "not antisymmetric"),
        (lambda: NashLearning(matrix=torch.zeros(2)), r"matrix has shape \[2\]"),
        (lambda: NashLearning(matrix=torch.full((2, 2), math.nan)), "not finite"),
        (lambda: NashLearning(gym.make(BANDIT, arms=3), matrix=torch.zeros(4, 4)), "do not fit 1 matrices"),
        (lambda: NashLearning(matrix=CYCLE, reference=torch.ones(2) / 2), r"reference has shape \[2\]"),
        (lambda: NashLearning(matrix=CYCLE, reference=torch.ones(3)), "sum to 1"),
        (lambda: NashLearning(matrix=CYCLE, reference=torch.tensor([0.5, 0.5, 0.0])), "above 0"),
        (lambda: NashLearningConfig(solver="nash"), "solver is 'nash'"),
        (lambda: NashLearningConfig(beta=-1.0), "beta is -1"),
        (lambda: NashLearningConfig(beta=2.0, step_size=0.6), "at most 1"),
        (lambda: NashLearningConfig(solver="regret_matching"), "knows no regulariser"),
        (lambda: NashLearningConfig(policy="table", beta=0.0), "beta above 0"),
        (
            lambda: NashLearningConfig(policy="network", solver="hedge"),
            "needs one of egpo, omd, nash_md, inpo",
        ),
        (lambda: NashLearningConfig(inner_steps=0), "inner_steps is 0"),
        (lambda: NashLearningConfig(normaliser="none"), "normaliser is 'none'"),
        (lambda: NashLearningConfig(mnpo_pairs="past"), "mnpo_pairs is 'past'"),
        (lambda: NashLearningConfig(policy="network", optimizer="gradient"), "needs one"),
        (lambda: NashLearningConfig(population=(0.5, 0.4)), "must sum to 1"),
        (lambda: NashLearningConfig(population=(0.5, 0.3, 0.2)), "it needs solver mnpo"),
        (
            lambda: NashLearningConfig(pairs=64),
            "pairs is 64, which would do nothing with solver egpo and policy 'exact'",
        ),
        (lambda: NashLearningConfig(inner_steps=3), "it needs policy 'table' or 'network'"),
        (lambda: NashLearningConfig(learning_rate=0.1), "it needs policy 'table' or 'network'"),
        (lambda: NashLearningConfig(policy="table", hidden=(8,)), "it needs policy 'network'"),
        (lambda: NashLearningConfig(policy="table", optimizer="gradient"), "it needs policy 'network'"),
        (lambda: NashLearningConfig(solver="gpo", normaliser="zero"), "normaliser is 'zero'"),
        (lambda: NashLearningConfig(policy="table", mnpo_pairs="present"), "it needs solver mnpo and policy"),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_state_of_another_game_is_refused():
    state = solved(2, matrix=CYCLE).state_dict()
    for other, message in (
        ({"matrix": -CYCLE}, "another matrix"),
        ({"matrix": CYCLE, "reference": torch.tensor([0.5, 0.3, 0.2])}, "another reference"),
        ({"matrix": CYCLE, "solver": "onpo"}, "its memory is"),
        ({"matrix": CYCLE, "policy": "table"}, "another policy"),
    ):
        with pytest.raises(ValueError, match=message):
            solved(0, **other).load_state_dict(state)
