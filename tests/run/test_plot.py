import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import FillBetweenPolyCollection
from matplotlib.figure import Figure
from matplotlib.image import imread

from prefrl.functional.statistics import bootstrap_interval, interquartile_mean
from prefrl.run import plot
from prefrl.run.plot import (
    MAX_POINTS,
    PlotCommand,
    find_runs,
    group_labels,
    moving_average,
    plot_curves,
    read_curve,
    save_figure,
    tick_label,
)

X, Y = "time/total_timesteps", "rollout/ep_rew_mean"


def make_run(path: Path, progress: str | None = None, **config: object) -> Path:
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({"recipe": "q_learning", "config": config}))
    if progress is not None:
        (path / "progress.csv").write_text(progress)
    return path


def rows(*values: float, first: int = 100) -> str:
    lines = [f"{first + 100 * i},{value},0.5" for i, value in enumerate(values)]
    return "\n".join([f"{X},{Y},train/loss", *lines, ""])


# The figure ----------------------------------------------------------------------------------------------


def test_figure_shows_interquartile_mean_interval_and_seeds() -> None:
    x = np.arange(5.0)
    values = np.random.default_rng(0).normal(size=(6, 5))
    curves = {"a": [(x, y) for y in values], "b": [(x, -x)]}
    figure = plot_curves(curves, y_label="return", interval=0.8)
    assert isinstance(figure.canvas, FigureCanvasAgg)  # needs no display
    (axes,) = figure.axes
    labelled = {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}
    assert list(labelled) == ["a (n = 6)", "b (n = 1)"]
    np.testing.assert_allclose(labelled["a (n = 6)"].get_ydata(), interquartile_mean(values))
    np.testing.assert_allclose(labelled["b (n = 1)"].get_ydata(), -x)
    faint = [line for line in axes.lines if line.get_alpha()]
    np.testing.assert_array_equal([line.get_ydata() for line in faint], values)
    (band,) = [each for each in axes.collections if isinstance(each, FillBetweenPolyCollection)]
    low, high = bootstrap_interval(values, interval=0.8)
    edge = band.get_paths()[0].vertices
    for i in range(5):
        at = edge[edge[:, 0] == i, 1]
        assert (at.min(), at.max()) == pytest.approx((low[i], high[i]))
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("timesteps", "return")
    assert axes.get_legend().get_title().get_text() == (
        "interquartile mean over n seeds,\n80% bootstrap interval"
    )


def test_seeds_at_different_x_are_interpolated_over_the_shared_range() -> None:
    curves = {"a": [([0, 10, 20], [0, 10, 20]), ([5, 15], [100, 200])]}
    line = next(line for line in plot_curves(curves).axes[0].lines if line.get_label().startswith("a"))
    assert line.get_xdata().tolist() == [5, 10, 15]
    assert line.get_ydata().tolist() == [52.5, 80, 107.5]


def test_long_curves_are_thinned() -> None:
    x = np.arange(10_000.0)
    line = plot_curves({"a": [(x, 2 * x)]}).axes[0].lines[0]
    assert len(line.get_xdata()) == MAX_POINTS
    np.testing.assert_allclose(line.get_ydata(), 2 * line.get_xdata())


def test_smoothing() -> None:
    assert moving_average([0, 3, 6, 0, 3], 3).tolist() == [0, 3, 3, 3, 3]
    assert moving_average([1, 2, 3, 4, 5, 6], 5).tolist() == [1, 2, 3, 4, 5, 6]
    assert moving_average([1, 9, 2], 1).tolist() == [1, 9, 2]
    line = plot_curves({"": [([0, 1, 2], [0, 3, 0])]}, smooth=3).axes[0].lines[0]
    assert (line.get_label(), line.get_ydata().tolist()) == ("n = 1", [0, 1, 0])


def test_groups_differ_in_colour_then_in_line() -> None:
    curves = {str(i): [([0, 1], [i, i])] for i in range(20)}
    figure = plot_curves(curves)
    lines = figure.axes[0].lines
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == 20
    assert figure.axes[0].get_legend() is None
    assert len(figure.legends[0].get_texts()) == 20  # beside the axes, where it hides no curve


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (0, "0"),
        (0.25, "0.25"),
        (40, "40"),
        (1000, "1k"),
        (1500, "1.5k"),
        (2e6, "2M"),
        (-3e9, "\N{MINUS SIGN}3B"),
    ],
)
def test_tick_labels(value: float, label: str) -> None:
    assert tick_label(value) == label


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"curves": {}}, "curves is empty"),
        ({"curves": {"a": []}}, "group without a curve"),
        ({"curves": {"a": [([0, 1], [0])]}}, r"'a' has x \(2,\) and y \(1,\)"),
        ({"curves": {"a": [([1, 0], [0, 1])]}}, "not ascending"),
        ({"curves": {"a": [([0, 1], [0, 1]), ([2, 3], [0, 1])]}}, "one starts at 2, another ends at 1"),
        ({"curves": {"a": [([0], [1])]}, "smooth": 0}, "smooth is 0"),
        ({"curves": {"a": [([0], [1])]}, "interval": 95}, "interval is 95"),
    ],
)
def test_wrong_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plot_curves(**arguments)


def test_saved_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = plot_curves({"a": [([5], [1]), ([5], [2])]})  # a single point is drawn, too
    save_figure(figure, tmp_path / "new" / "a.png")
    assert imread(tmp_path / "new" / "a.png").shape == (630, 1050, 4)  # 7 x 4.2 inches at 150 dots
    before = (tmp_path / "new" / "a.png").read_bytes()

    def fail(path: Path, format: str) -> None:
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        save_figure(figure, tmp_path / "new" / "a.png")
    assert [file.read_bytes() for file in (tmp_path / "new").iterdir()] == [before]


# Runs ----------------------------------------------------------------------------------------------------


def test_runs_are_found_in_folders_of_runs_and_once(tmp_path: Path) -> None:
    a, b, c = (make_run(tmp_path / name) for name in ("sweep/a", "sweep/deeper/b", "c"))
    make_run(tmp_path / "sweep" / ".d.123.tmp")
    assert find_runs([tmp_path / "sweep"]) == [a, b]
    assert find_runs([c, tmp_path, a]) == [c, a, b]


def test_curve_of_a_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", f"{X},{Y},other\n100,1.5,\n200,,7\n300,2.5,\n300,3.5,\n400,9")
    x, y = read_curve(run, X, Y)  # the line without its end is being written
    assert (x.tolist(), y.tolist()) == ([100, 300], [1.5, 3.5])


def test_groups_are_what_differs_except_the_seed() -> None:
    settings = [
        {"recipe": "q", "seed": seed, "agent.gamma": gamma, "env.gamma": 1, "env_id": "E"}
        for gamma in (0.9, 0.99)
        for seed in (0, 1)
    ]
    assert group_labels(settings) == ["gamma = 0.9"] * 2 + ["gamma = 0.99"] * 2
    assert group_labels(settings[:2]) == ["q", "q"]
    assert group_labels(settings[:2], ["seed", "env-id"]) == ["seed = 0, env_id = E", "seed = 1, env_id = E"]
    assert group_labels(settings[:1], ["agent.gamma", "env.gamma"]) == ["agent.gamma = 0.9, env.gamma = 1"]
    assert group_labels([{"recipe": "q"}, {"recipe": "r", "n": 2}]) == ["q, n = None", "r, n = 2"]
    with pytest.raises(ValueError, match=r"'gamma' of the runs may mean agent\.gamma or env\.gamma"):
        group_labels(settings, ["gamma"])
    with pytest.raises(ValueError, match=r"'lr' of the runs is unknown; it has agent\.gamma, env"):
        group_labels(settings, ["lr"])


def test_command_draws_a_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for gamma in (0.9, 0.99):
        for seed in range(3):
            name = f"sweep/{gamma}-{seed}"
            make_run(tmp_path / name, rows(1, 2, 3 + seed), seed=seed, agent={"gamma": gamma})
    make_run(tmp_path / "sweep" / "new", seed=3, agent={"gamma": 0.9})
    PlotCommand((tmp_path / "sweep",)).run()
    output = capsys.readouterr()
    assert output.out == f"{tmp_path / 'sweep' / 'curves.png'}\n"
    assert output.err == (
        f"left out: {tmp_path / 'sweep' / 'new' / 'progress.csv'} does not exist: "
        "the run has logged nothing yet\n"
    )
    assert imread(tmp_path / "sweep" / "curves.png").std() > 0.05  # something is drawn


@pytest.mark.parametrize(
    ("progress", "options", "message"),
    [
        (None, {}, "progress.csv does not exist: the run has logged nothing yet"),
        ("", {}, "progress.csv is empty: the run has logged nothing yet"),
        (f"{X},{Y}\n", {}, "progress.csv is empty"),
        (rows(1, 2), {"y": "loss"}, f"no column loss; it has {Y}, {X}, train/loss"),
        (rows(1, 2), {"x": "a", "y": "b"}, "no column a or b"),
        (f"{X},{Y}\n100,\n", {}, f"has no value of {Y} yet"),
        (f"{X},{Y}\n100,abc\n", {}, "could not convert string to float: 'abc'"),
        (rows(1), {"out": Path("curves.pdf")}, "out is curves.pdf; its name must end in .png"),
    ],
)
def test_command_refuses(tmp_path: Path, progress: str | None, options: dict, message: str) -> None:
    make_run(tmp_path / "first", rows(1, 2))
    run = make_run(tmp_path / "second", progress)
    with pytest.raises(ValueError, match=message) as caught:
        PlotCommand((tmp_path / "first", run), **{"out": tmp_path / "a.png", **options}).run()
    assert "curves.pdf" in message or str(run) in str(caught.value) or options
    assert not list(tmp_path.glob("*.png"))


def test_command_refuses_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="runs is empty"):
        PlotCommand(()).run()
    with pytest.raises(FileNotFoundError, match="nowhere is not a folder"):
        PlotCommand((tmp_path / "nowhere",)).run()
    with pytest.raises(FileNotFoundError, match="holds no run"):
        PlotCommand((tmp_path,)).run()
    (tmp_path / "config.json").write_text('{"recipe": "q"}')
    (tmp_path / "progress.csv").write_text(rows(1))
    with pytest.raises(ValueError, match=r"config\.json is not the config\.json of a run: KeyError"):
        PlotCommand((tmp_path,)).run()


def test_losses_are_drawn_where_there_are_no_episodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    monkeypatch.setattr(
        plot, "plot_curves", lambda curves, **labels: drawn.append(labels["y_label"]) or Figure()
    )
    solver = make_run(tmp_path / "solver", f"{X},train/loss\n100,0.5\n")
    PlotCommand((solver,), out=tmp_path / "a.png").run()
    stepping = make_run(tmp_path / "stepping", rows(1, 2))  # has both columns
    PlotCommand((stepping,), out=tmp_path / "a.png").run()
    PlotCommand((stepping,), y="train/loss", out=tmp_path / "a.png").run()
    assert drawn == ["training loss", "mean return of an episode", "training loss"]
    with pytest.raises(ValueError, match=f"no column {Y}"):
        PlotCommand((solver,), y=Y, out=tmp_path / "a.png").run()
