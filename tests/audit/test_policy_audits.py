"""Audits of what was trained, as commands: what they write, say and refuse."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from prefrl import cli
from prefrl.audit.policies.base import open_run
from prefrl.audit.policies.coherence import AuditCoherence
from prefrl.audit.policies.curated_loop import AuditCuratedLoop
from prefrl.data import load_preferences
from prefrl.preferences.general_models import Comparisons
from prefrl.run.folder import RunFolder

PO = ("preference_optimization", "--env-id", "prefrl/PreferenceBandit-v0", "--cloning-steps", "20",
      "--total-timesteps", "120", "--checkpoint-every", "20")  # fmt: skip
CHOICE = "prefrl/LotteryChoice-v0"


def trained(out: Path, *arguments: str) -> Path:
    assert cli.main(["train", *arguments, "--out", str(out), "--quiet"]) == 0
    return out


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Short runs of several kinds; "kept" keeps its checkpoints."""
    top = tmp_path_factory.mktemp("runs")
    return {
        "kept": trained(top / "kept", *PO, "--keep-checkpoints"),
        "plain": trained(top / "plain", *PO),
        "one_context": trained(top / "one", *PO, "--env-args", "contexts=1"),
        "chooser": trained(top / "chooser", "dqn", "--env-id", CHOICE, "--total-timesteps", "300"),
        "numbers": trained(top / "numbers", "ppo", "--env-id", "prefrl/Pendulum-v0", "--total-timesteps=64",
                           "--n-steps", "8", "--num-envs", "8", "--eval-episodes", "2", "--keep-checkpoints"),
    }  # fmt: skip


def audited(out: Path, kind: str, *arguments: object) -> dict[str, Any]:
    assert cli.main(["audit", kind, *map(str, arguments), "--out", str(out)]) == 0
    assert (out / "audit.png").read_bytes().startswith(b"\x89PNG")
    found: dict[str, Any] = json.loads((out / "result.json").read_text())
    return found


def refused(out: Path, capsys: pytest.CaptureFixture[str], kind: str, *arguments: object) -> str:
    assert cli.main(["audit", kind, *map(str, arguments), "--out", str(out)]) == 2
    assert not out.exists()
    return capsys.readouterr().err


# Drift ----------------------------------------------------------------------------------------------------


def test_checkpoints_are_kept_and_change_nothing(runs: dict[str, Path]) -> None:
    names = [path.name for path in sorted((runs["kept"] / "checkpoints").iterdir())]
    assert names == [f"{timesteps:012d}.pt" for timesteps in range(0, 121, 20)]
    assert not (runs["plain"] / "checkpoints").exists()
    ends = [RunFolder.open(runs[name]).load_checkpoint() for name in ("kept", "plain")]
    assert ends[0] is not None
    assert ends[1] is not None
    for name, value in ends[0]["agent"]["network"].items():
        assert torch.equal(value, ends[1]["agent"]["network"][name])
    views = RunFolder.open(runs["kept"]).kept()
    assert [view.load_checkpoint()["num_timesteps"] for view in views] == list(range(0, 121, 20))  # type: ignore[index]
    assert [view.load_checkpoint()["num_timesteps"] for view in RunFolder.open(runs["plain"]).kept()] == [
        100,
        120,
    ]  # type: ignore[index]


def test_drift_of_actions(runs: dict[str, Path], tmp_path: Path) -> None:
    found = audited(tmp_path / "all", "drift", runs["kept"])
    assert found["timesteps"] == list(range(0, 121, 20))
    assert found["stances"] == [f"action {arm}" for arm in range(5)]
    assert all(sum(row) == pytest.approx(1.0) for row in found["shares"])
    assert sum(found["magnitude"]) == pytest.approx(0.0)
    assert found["total_drift"] > 0.2
    assert sum(found["value_gap"]) == pytest.approx(0.0)
    later = audited(tmp_path / "later", "drift", runs["kept"], "--since", 20)
    assert later["timesteps"][0] == 20
    last = audited(tmp_path / "last", "drift", runs["plain"])
    assert last["timesteps"] == [100, 120]
    assert last["shares"] == found["shares"][-2:]  # the same agent, asked in the same situations


def test_the_value_gap_says_where_actions_go(runs: dict[str, Path], tmp_path: Path) -> None:
    """In one context; over several, gaps of arms that are good in one and bad in another cancel."""
    found = audited(tmp_path / "run", "drift", runs["one_context"], "--since", 100)
    gap, moved = (torch.tensor(found[name]) for name in ("value_gap", "magnitude"))
    assert int(gap.argmax()) == int(torch.tensor(found["shares"][-1]).argmax())
    assert 0.0 <= found["follows_gap"] <= 1.0
    assert moved.shape == gap.shape


def test_drift_over_several_runs_goes_on_in_time(runs: dict[str, Path], tmp_path: Path) -> None:
    found = audited(tmp_path / "run", "drift", runs["plain"], runs["kept"])
    assert found["timesteps"] == [100, 120, *range(120, 241, 20)]


@pytest.mark.parametrize(("stance", "count"), [("action", 4), ("return", 4)])
def test_numbers_are_put_in_bins(stance: str, count: int, runs: dict[str, Path], tmp_path: Path) -> None:
    flags = ("--stance", stance, "--bins", 4, "--situations", 20, "--draws", 2)
    found = audited(tmp_path / "run", "drift", runs["numbers"], *flags)
    assert len(found["stances"]) == count
    means = torch.tensor(found["shares"]).mean(0)
    assert means.tolist() == pytest.approx([0.25] * 4, abs=0.05)  # quantiles of all checkpoints together
    assert found["value_gap"] is None


def test_ends_are_told_apart(runs: dict[str, Path], tmp_path: Path) -> None:
    found = audited(tmp_path / "run", "drift", runs["kept"], "--stance", "end", "--situations", 50)
    assert set(found["stances"]) <= {f"end {place}" for place in (1, 2, 3, 4, 5, 7, 8, 9, 10, 11)}
    assert found["total_drift"] > 0.1


def test_what_drift_refuses(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert "needs two" in refused(out, capsys, "drift", runs["kept"], "--since", 120)
    text = refused(out, capsys, "drift", runs["kept"], runs["chooser"])
    assert "has observations Box" in text
    text = refused(out, capsys, "drift", runs["numbers"], "--stance", "end")
    assert "ends are told apart where they are Discrete" in text
    assert "component is 1" in refused(out, capsys, "drift", runs["numbers"], "--component", 1)
    assert "there is no run folder" in refused(out, capsys, "drift", tmp_path / "nothing")


# Curated loops --------------------------------------------------------------------------------------------


def test_a_table_of_options(tmp_path: Path) -> None:
    """p = (1/2, 1/2), e^r = (1, 3), K = 2: one round gives (3/8, 5/8), its worth 1/8 + 5/8 after 2/3."""
    table = tmp_path / "options.csv"
    table.write_text("option,probability,reward,hat\na,.5,0,0\nb,.5,1.0986122886681098,1\n")
    found = audited(tmp_path / "run", "curated_loop", table, "--rounds", 40)
    alone, data = found["loops"]["alone"], found["loops"]["with_data"]
    assert alone["best_share"][:2] == pytest.approx([0.5, 0.625])
    assert found["first_growth"] == pytest.approx(0.125 + 0.625 - 2.0 / 3.0)
    assert found["first_growth_bound"] == pytest.approx(0.5 * (0.5 * (1 / 9 + 1) - (2 / 3) ** 2))
    assert data["best_share"][1] == pytest.approx(0.5 * (0.5 + 0.625))
    assert min(data["least_ratio"]) >= found["least_share"] == 0.5
    assert alone["settled_after"] < 41 == data["settled_after"]
    assert found["features"] == ["hat"]
    assert [row[0] for row in alone["feature_shares"]] == pytest.approx(alone["best_share"])
    sampled = found["loops"]["alone_sampled"]["best_share"]
    assert sampled[1] == pytest.approx(0.625, abs=0.06)
    assert sampled[1] != alone["best_share"][1]


@pytest.mark.parametrize("choices", ["2", "None"])
def test_returns_far_apart_and_options_that_are_never_shown(choices: str, tmp_path: Path) -> None:
    table = tmp_path / "options.csv"
    table.write_text("option,probability,reward\na,.5,0\nb,.3,-1200\nc,.2,-900\nd,0,3000\n")
    found = audited(tmp_path / "run", "curated_loop", table, "--choices", choices, "--rounds", 9)
    for loop in found["loops"].values():
        assert loop["reward"][-1] >= loop["reward"][0]
        assert loop["best_share"] == [0.0] * 10
    assert found["loops"]["alone"]["reward"][-1] == pytest.approx(0.0, abs=1e-6)


def test_what_a_loop_refuses_leaves_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, out = tmp_path / "options.csv", tmp_path / "run"
    table.write_text("option,probability,reward\na,.5,0\nb,.5,20000\n")
    assert "take a smaller --scale" in refused(out, capsys, "curated_loop", table)
    with pytest.raises(ValueError, match="take fewer --samples"):
        AuditCuratedLoop(source=table, out=out, choices=1_000_000)
    table.write_text("option,probability,reward,hat,hat\na,.5,0,1,2\nb,.5,1,3,4\n")
    assert "names 'hat' twice" in refused(out, capsys, "curated_loop", table)
    other = table.rename(tmp_path / "options.txt")
    assert "ends in .csv" in refused(out, capsys, "curated_loop", other)
    assert "ends in .csv" in refused(out, capsys, "reward_loops", other)


def test_rounded_probabilities_are_taken_as_they_are_meant(tmp_path: Path) -> None:
    table = tmp_path / "options.csv"
    table.write_text("option,probability,reward\n" + "a,.3333,0\nb,.3333,0\nc,.3333,1\n")
    found = audited(tmp_path / "run", "curated_loop", table, "--rounds", 2, "--samples", 0)
    for loop in found["loops"].values():
        assert loop["best_share"][0] == pytest.approx(1 / 3, abs=1e-12)
        assert loop["least_ratio"][0] == pytest.approx(1.0, abs=1e-12)


def test_policies_exactly_and_by_episodes(runs: dict[str, Path], tmp_path: Path) -> None:
    exact = audited(tmp_path / "exact", "curated_loop", runs["plain"], "--rounds", 5, "--samples", 0)
    assert exact["known_by"] == "all 5 sequences of 2 prompts, exactly"
    assert set(exact["loops"]) == {"alone", "with_data"}
    assert exact["growth_over_bound"] >= -1e-12
    flags = ("--rounds", 5, "--episodes", 30, "--choices", "None")
    lived = audited(tmp_path / "lived", "curated_loop", runs["chooser"], *flags)
    assert lived["known_by"] == "30 episodes"
    rewards = lived["loops"]["alone"]["reward"]
    assert rewards == sorted(rewards)
    assert rewards[-1] > rewards[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is empty"),
        ("option,reward\na,1\nb,2\n", "it must name 'probability' once"),
        ("option,probability,reward\na,.5,1\n", "holds 1 options"),
        ("option,probability,reward\na,.5,1\nb,.4,1\n", "sum to 0.9"),
        ("option,probability,reward\na,1.5,1\nb,-.5,1\n", "must not be negative"),
        ("option,probability,reward\na,.5,1\nb,.5,many\n", "row 2 has reward 'many'"),
        ("option,probability,reward\na,.5,1\nb,.5\n", "row 2 has 2 entries"),
    ],
)
def test_bad_tables_of_options(
    text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "options.csv"
    table.write_text(text)
    assert message in refused(tmp_path / "run", capsys, "curated_loop", table)


# Coherence ------------------------------------------------------------------------------------------------


def test_choices_of_a_run(runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = audited(tmp_path / "run", "coherence", runs["chooser"], "--lotteries", 6, "--folds", 3)
    assert set(found["models"]) >= {"coin", "expected_utility", "bradley_terry", "thurstone", "gpm_1"}
    assert len(found["utilities"]) == len(found["true_values"]) == 11
    assert 0.5 <= found["ceiling"] <= 1.0
    printed = capsys.readouterr().out.splitlines()
    assert printed[-1] == str(tmp_path / "run" / "result.json")
    assert "the better lottery is chosen" in "\n".join(printed)
    text = refused(tmp_path / "other", capsys, "coherence", runs["plain"])
    assert "is a run in prefrl/PreferenceBandit-v0" in text


def test_an_agent_without_preferences_has_a_table_too(tmp_path: Path) -> None:
    """One that takes what is shown first, or last, whatever it is."""
    audit = AuditCoherence(run_folder=tmp_path, out=tmp_path, lotteries=3)
    options = audit._options(3)
    pairs = torch.triu_indices(6, 6, 1)
    answers = Comparisons(pairs[0], pairs[1], torch.full((15,), 0.5).double(), 6)
    found = json.loads(json.dumps(audit._numbers(answers, options, torch.arange(3.0).double(), 1.0)))
    assert found["rank_correlation"] is None
    audit.draw(found)
    text = Console(file=io.StringIO(), width=160)
    for table in audit.tables(found):
        text.print(table)
    assert "rank correlation none (all the same)" in text.file.getvalue()  # type: ignore[attr-defined]


# Alignment ------------------------------------------------------------------------------------------------


def test_alignment_of_a_run(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = audited(tmp_path / "own", "alignment", runs["plain"])
    result = json.loads((runs["plain"] / "result.json").read_text())
    for name in ("absolute_alignment", "relative_alignment", "pair_accuracy"):
        assert found[name] == pytest.approx(result[name])
    itself = audited(tmp_path / "itself", "alignment", runs["plain"], "--reference", runs["plain"])
    assert itself["relative_alignment"] == 0.0  # nothing moved
    assert itself["leads"] == itself["reference_leads"]
    assert itself["absolute_alignment"] == found["absolute_alignment"]
    text = refused(tmp_path / "no", capsys, "alignment", runs["chooser"])
    assert "preferences is None" in text
    kept = runs["plain"] / "preferences.npz"
    text = refused(tmp_path / "no", capsys, "alignment", runs["chooser"], "--preferences", kept)
    assert "DQN, which has no likelihood of actions" in text
    text = refused(tmp_path / "no", capsys, "alignment", runs["plain"], "--reference", runs["chooser"])
    assert "is a run of DQN, which has no likelihood" in text
    text = refused(tmp_path / "no", capsys, "alignment", runs["plain"], "--reference", runs["one_context"])
    assert f"those of {runs['plain']} are" in text


def test_every_agent_with_a_reference_can_be_asked_for_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Diffusion policies keep theirs as a network, the others as a vector: the audit asks all alike."""
    steps = "--cloning-steps", "4", "--total-timesteps", "8"
    run = trained(tmp_path / "dpo", "diffusion_dpo", "--env-id", "prefrl/Ring-v0", "--hidden", "16", *steps)
    found = audited(tmp_path / "own", "alignment", run)
    assert found["leads"] != found["reference_leads"]
    agent: Any = open_run(RunFolder.open(run, quiet=True)).agent
    kept = load_preferences(run / "preferences.npz")
    sides = [agent.reference_log_prob(side).sum(-1) for side in (kept.first, kept.second)]
    assert found["reference_leads"][:50] == pytest.approx((sides[1] - sides[0])[:50].tolist(), abs=1e-6)
    agent.num_timesteps = 4
    with pytest.raises(ValueError, match="there is no reference yet"):
        agent.reference_log_prob(kept.first)


# Loops of rewards -----------------------------------------------------------------------------------------


def test_a_bonus_that_pays_a_loop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = tmp_path / "bonus.csv"
    table.write_text("state,action,bonus\n0,0,1\n")
    env = ("--env-id", "prefrl/SparseGrid-v0")
    found = audited(tmp_path / "paid", "reward_loops", table, *env)
    assert found["num_loops"] == 1
    assert found["loops"][0]["states"] == [0]
    assert found["worst_gain"] == pytest.approx(1.0)
    table.write_text("state,action,bonus\n0,0,0\n")
    assert audited(tmp_path / "none", "reward_loops", table, *env)["loops"] == []
    for text, message in (
        ("state,bonus\n0,1\n", "it must name state, action, bonus"),
        ("state,action,bonus\n99,0,1\n", "state '99'; it must be a whole number from 0 to"),
        ("state,action,bonus\n0,0,nan\n", "it must be a finite number"),
    ):
        table.write_text(text)
        assert message in refused(tmp_path / "no", capsys, "reward_loops", table, *env)
    with pytest.raises(SystemExit):  # settings that do not go together, before anything is looked at
        refused(tmp_path / "no", capsys, "reward_loops", table)
    assert "env_id is None" in " ".join(capsys.readouterr().err.split())
    pole = ("--env-id", "prefrl/CartPole-v0")
    table.write_text("state,action,bonus\n0,0,0\n")
    assert "knows no table of its model" in refused(tmp_path / "no", capsys, "reward_loops", table, *pole)


def test_what_a_learned_reward_pays(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--env-id", "prefrl/SparseGrid-v0", "--segment-length", "3", "--total-timesteps", "400",
             "--num-labels", "40", "--sessions", "2")  # fmt: skip
    run = trained(tmp_path / "learned", "preference_rl", *flags)
    raw = audited(tmp_path / "raw", "reward_loops", run, "--no-match")
    assert raw["fit"] is None
    assert len(raw["paid"]) == len(raw["true"]) == 4 * raw["states"]
    assert raw["paid"] != raw["true"]
    text = refused(tmp_path / "no", capsys, "reward_loops", runs["plain"])
    assert "learns no reward of steps" in text


def test_several_learners_are_looked_at(tmp_path: Path) -> None:
    run = trained(tmp_path / "two", *PO, "--num-learners", "2", "--batch-size", "2", "--keep-checkpoints")
    aligned = audited(tmp_path / "alignment", "alignment", run)
    assert len(aligned["learners"]) == 2
    assert aligned["learners"][0] != aligned["learners"][1]
    moved = audited(tmp_path / "drift", "drift", run, "--stance", "return", "--situations", 30)
    assert sum(moved["shares"][0]) == pytest.approx(1.0)
    lived = audited(tmp_path / "loop", "curated_loop", run, "--rounds", 2)
    assert "sequences" in lived["known_by"]


def test_agents_that_read_a_stock_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--env-id", "prefrl/RiskyCliff-v0")
    run = trained(tmp_path / "planned", "distributional_dp", *flags)
    assert "reads Dict" in refused(tmp_path / "no", capsys, "curated_loop", run, "--episodes", 2)
    assert "stages left" in refused(
        tmp_path / "no", capsys, "drift", run
    )  # at the checkpoint before the last
