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
from prefrl.run.curves import read_curves
from prefrl.run.plot import (
    MAX_POINTS,
    PlotCommand,
    default_column,
    find_runs,
    group_labels,
    moving_average,
    plot_curves,
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
    ((x, y),) = read_curves(run, X, Y)  # the line without its end is being written
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
    dull = [
        {"recipe": "q", "device": "cpu", "log_every": 1},
        {"recipe": "q", "device": "auto", "log_every": 2},
    ]
    assert group_labels(dull) == ["q", "q"]
    with pytest.raises(ValueError, match=r"'gamma' of the runs may mean agent\.gamma or env\.gamma"):
        group_labels(settings, ["gamma"])
    with pytest.raises(ValueError, match=r"'lr' of the runs is unknown; it has agent\.gamma, env"):
        group_labels(settings, ["lr"])


def test_recipes_are_told_apart_by_their_names_and_what_differs_within_each() -> None:
    settings = [
        {"recipe": "q", "env_id": "E", "a": 1, "b": 1},
        {"recipe": "r", "env_id": "E", "a": 2, "c": [2]},
        {"recipe": "r", "env_id": "E", "a": 2, "c": []},
    ]
    assert group_labels(settings) == ["q", "r, c = 2", "r, c = none"]
    settings[0]["env_id"] = "F"
    assert group_labels(settings)[:2] == ["q, env_id = F", "r, env_id = E, c = 2"]


def test_legends_stay_on_the_canvas() -> None:
    """Of many groups with long names."""
    words = ", ".join(f"a_setting_{i} = {i}" for i in range(30))
    figure = plot_curves({f"{number}, {words}": [([0, 1], [0, 1])] for number in range(20)})
    figure.draw_without_rendering()
    canvas, legend = figure.bbox, figure.legends[0].get_window_extent()
    assert canvas.x0 <= legend.x0 < legend.x1 <= canvas.x1
    assert canvas.y0 <= legend.y0 < legend.y1 <= canvas.y1
    assert figure.axes[0].get_window_extent().width > 0.4 * canvas.width
    assert "=\n" not in figure.legends[0].get_texts()[0].get_text()


def test_seeds_of_unequal_lengths() -> None:
    curves = [([0, 10, 20], [0, 1, 2]), ([0, 10], [1, 2]), ([0, 10, 20, 30], [2, 3, 4, 5])]
    figure = plot_curves({"a": curves})
    all_of_them, two, one = [line for line in figure.axes[0].lines if not line.get_alpha()]
    assert (all_of_them.get_xdata().tolist(), all_of_them.get_linestyle()) == ([0, 10], "-")
    assert (two.get_xdata().tolist(), two.get_ydata().tolist()) == ([10, 20], [2, 3])
    assert (one.get_xdata().tolist(), one.get_ydata().tolist()) == ([20, 30], [4, 5])
    assert two.get_linestyle() == one.get_linestyle() == ":"
    assert "dotted" in figure.axes[0].get_legend().get_title().get_text()


def test_lengths_that_hardly_differ_are_equal() -> None:
    figure = plot_curves({"a": [([0, 10, 1000], [0, 1, 2]), ([0, 10, 1001], [1, 2, 3])]})
    (line,) = [line for line in figure.axes[0].lines if not line.get_alpha()]
    assert line.get_xdata()[-1] == 1000


def test_seeds_are_not_drawn_where_there_are_many_groups() -> None:
    curves = {str(i): [([0, 1], [i, i]), ([0, 1], [i, i + 1])] for i in range(5)}
    assert len(plot_curves(curves).axes[0].lines) == 5
    del curves["4"]
    assert len(plot_curves(curves).axes[0].lines) == 12


def test_of_one_seed_nothing_is_said_about_intervals() -> None:
    figure = plot_curves({"a": [([0, 1], [0, 1])], "b": [([0, 1], [0, 2])]})
    assert figure.axes[0].get_legend().get_title().get_text() in ("", "None")


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


def test_a_trial_that_failed_early_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whether it has no such column, or has it without a value."""
    make_run(tmp_path / "sweep" / "0", f"{X},train/loss\n100,1.0\n", seed=0)
    make_run(tmp_path / "sweep" / "1", f"{X},{Y}\n100,\n", seed=1)
    for seed in (2, 3):
        make_run(tmp_path / "sweep" / str(seed), rows(1, 2, seed), seed=seed)
    PlotCommand((tmp_path / "sweep",), y=Y).run()
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 2
    assert f"0/progress.csv has no column {Y}" in errors[0]
    assert f"1/progress.csv has no value of {Y} yet" in errors[1]
    with pytest.raises(ValueError, match=f"no column nonsense; it has {Y}"):
        PlotCommand((tmp_path / "sweep",), y="nonsense").run()


def test_the_default_is_what_most_runs_have(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / str(n), f"{X},train/loss,eval/mean_reward\n100,1,2\n") for n in range(2)]
    assert default_column(runs) == "eval/mean_reward"
    assert default_column([*runs, make_run(tmp_path / "2", rows(1))]) == "train/loss"
    assert default_column([make_run(tmp_path / "3", f"{X},train/objective\n1,1\n")]) == "train/objective"


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
    with pytest.raises(ValueError, match=r"no config\.json of a run \('config' is missing"):
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
