"""The page of runs: what it shows, that it loads nothing, and that no text becomes markup."""

import re
import shutil
from pathlib import Path

import pytest

from prefrl.cli import main
from prefrl.share.report import report, table


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "sweep"
    flags = ["--set", "env_id=CartPole-v1", "--set", "total_timesteps=300", "--set", "hidden=8",
             "--set", "learning_starts=50"]  # fmt: skip
    seeds = ["--seeds", "0", "1", "--set", "loss=mse,huber"]
    assert main(["sweep", "dqn", *flags, *seeds, "--out", str(folder)]) == 0
    return folder


def test_a_sweep_is_on_one_page(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(sweep)]) == 0
    made = Path(capsys.readouterr().out.splitlines()[-1])
    page = made.read_text()
    assert made == sweep / "report.html"
    assert "<h1>dqn: 4 runs</h1>" in page
    assert page.count('src="data:image/png;base64,') == 3  # evaluations, episodes, the loss
    assert "<th>loss = mse</th>" in page
    assert "<td>runs that are finished</td><td>2 of 2</td><td>2 of 2</td>" in page
    assert re.search(r"<td>final_return</td><td>[\d.]+ \([\d.]+ to [\d.]+\)</td>", page)
    every = page.partition("<summary>Every run</summary>")[2].partition("</details>")[0]
    assert every.count("<tr>") == 5
    # What was set is before the fold, what was not is behind it.
    shown, _, hidden = page.partition("<h2>Settings</h2>")[2].partition("<details>")
    assert "<td>total_timesteps</td><td>300</td><td>100000</td>" in shown
    assert "<td>agent.loss</td><td>huber; mse</td><td>hl_gauss</td>" in shown
    assert "<td>agent.gamma</td><td>0.99</td><td>0.99</td>" in hidden
    assert "<td>gymnasium</td>" in page


def test_a_page_loads_nothing_and_runs_nothing(sweep: Path) -> None:
    page = report([sweep])
    assert "default-src 'none'" in page
    assert not re.search(r"<script|<link|<iframe|(src|href)=\"(?!data:)", page)


def test_texts_are_texts(sweep: Path, tmp_path: Path) -> None:
    assert "<b>" not in table(["<b>"], [["<b>", "&"]])
    (run,) = [path for path in sweep.iterdir() if path.is_dir()][:1]
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / "git.diff").write_text("+<script>alert(1)</script>\n")
    page = report([copy])
    assert "<script>" not in page
    assert "+&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_columns_and_files_are_checked(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(sweep), "--y", "train/nonsense", "--out", str(tmp_path / "a.html")]) == 2
    assert "has no column train/nonsense" in capsys.readouterr().err
    assert main(["report", str(sweep), "--out", str(tmp_path / "a.pdf")]) == 2
    assert "its name must end in .html" in capsys.readouterr().err
    assert main(["report", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_run_that_is_not_finished_has_a_page(sweep: Path, tmp_path: Path) -> None:
    (run,) = [path for path in sweep.iterdir() if path.is_dir()][:1]
    copy = tmp_path / "run"
    copy.mkdir()
    (copy / "config.json").write_bytes((run / "config.json").read_bytes())
    page = report([copy])
    assert "Nothing was logged yet" in page
    assert "<td>runs that are finished</td><td>0 of 1</td>" in page


def test_an_evaluation_is_on_the_page(sweep: Path, tmp_path: Path) -> None:
    (run,) = [path for path in sweep.iterdir() if path.is_dir()][:1]
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / "evaluation.json").write_text('{"mean_return": 12.5, "learners": [1.0, 2.0]}')
    assert "<td>evaluation/mean_return</td><td>12.5</td>" in report([copy])
