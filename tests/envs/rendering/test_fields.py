"""Fields, their legends, and words on pictures."""

import itertools

import numpy as np
import pytest

from prefrl.envs.finite_horizon.budgeted_collection import BudgetedCollectionDynamics
from prefrl.envs.finite_horizon.homeostasis import HomeostasisDynamics
from prefrl.envs.finite_horizon.preference_boards import MeadowDynamics, ThreeGoalsDynamics
from prefrl.envs.finite_horizon.risky_cliff import RiskyCliffDynamics
from prefrl.envs.finite_horizon.small_mdps import RandomMDPDynamics, TwoCoinsDynamics
from prefrl.envs.finite_horizon.stochastic_apples import StochasticApplesDynamics
from prefrl.envs.rendering.fields import APPLE, GROUND, PAINTERS, draw_field, draw_legend, draw_walker
from prefrl.envs.rendering.scenes import draw_diffusion, ticks
from prefrl.envs.rendering.shapes import Canvas
from prefrl.envs.rendering.text import GLYPHS, text_width, write

TASKS = (
    StochasticApplesDynamics, HomeostasisDynamics, lambda: HomeostasisDynamics(variables=3),
    BudgetedCollectionDynamics, RiskyCliffDynamics, ThreeGoalsDynamics, MeadowDynamics, TwoCoinsDynamics,
    RandomMDPDynamics,
)  # fmt: skip
WHITE = (255, 255, 255)


def test_every_kind_looks_like_no_other() -> None:
    kinds = [GROUND, *PAINTERS]
    pictures = dict(zip(kinds, np.split(draw_field(np.array([kinds]), tile=16), len(kinds), 1), strict=True))
    for first, second in itertools.combinations(kinds, 2):
        assert np.abs(pictures[first].astype(int) - pictures[second]).mean() > 2.0, (first, second)


def test_an_apple_is_red() -> None:
    red, green, blue = draw_field(np.array([[APPLE]]))[26, 24].tolist()
    assert red > 2 * max(green, blue)


def test_who_walks_looks_where_they_go() -> None:
    field = draw_field(np.zeros((1, 2), dtype=np.int64))
    pictures = [draw_walker(field, 0, 1, heading=heading) for heading in range(4)]
    np.testing.assert_array_equal(draw_walker(field, 0, 1, heading=None), pictures[3])
    for first, second in itertools.combinations(pictures, 2):
        assert (first != second).any()
    for picture in pictures:
        np.testing.assert_array_equal(picture[:, :48], field[:, :48])


@pytest.mark.parametrize("task", TASKS)
def test_the_legend_explains_what_is_there(task) -> None:
    made = task()
    assert set(made.legend) == set(made.cells.flatten().tolist()) - {GROUND}
    assert all(letter.upper() in GLYPHS for label in made.legend.values() for letter in label)


def test_long_labels_fit() -> None:
    picture = draw_legend({APPLE: "w" * 80}, 144)
    assert picture.shape[1] == 144
    assert (picture[:, -2:] == picture[0, 0]).all()  # the margin is free


def test_words_take_the_width_that_is_said() -> None:
    for text in ("A", "MWH", "08/%"):
        canvas = Canvas(200, 40, WHITE)
        write(canvas, 20.0, 10.0, text, 12.0, (0, 0, 0))
        columns = np.flatnonzero((canvas.image() < 128).any((0, 2)))
        rows = np.flatnonzero((canvas.image() < 128).any((1, 2)))
        assert columns[0] == pytest.approx(20, abs=2)
        assert columns[-1] == pytest.approx(20 + text_width(text, 12.0), abs=2)
        assert (rows[0], rows[-1]) == (pytest.approx(10, abs=2), pytest.approx(22, abs=2))


def test_glyphs_differ() -> None:
    pictures = set()
    for letter in GLYPHS:
        canvas = Canvas(16, 20, WHITE)
        write(canvas, 3.0, 3.0, letter, 12.0, (0, 0, 0))
        pictures.add(canvas.image().tobytes())
    assert len(pictures) == len(GLYPHS) - 1  # O and 0 are one


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        ((-3.0, 3.0), [-3, -2, -1, 0, 1, 2, 3]),
        ((0.0, 2.0), [0, 0.5, 1, 1.5, 2]),
        ((-0.04, 0.05), [-0.04, -0.02, 0, 0.02, 0.04]),
        ((90.0, 410.0), [100, 150, 200, 250, 300, 350, 400]),
    ],
)
def test_ticks_are_round(span: tuple[float, float], expected: list[float]) -> None:
    assert ticks(*span) == pytest.approx(expected)


def test_the_scale_of_a_diffusion_is_that_of_its_axes() -> None:
    narrow, wide = (draw_diffusion([0.0], span, None, None) for span in ((-1.0, 1.0), (-8.0, 8.0)))
    assert (narrow[:, :50] != wide[:, :50]).any()  # other numbers beside the axis
    plane = draw_diffusion([0.0, 0.0], (-1.0, 1.0), None, None)
    assert (plane[345:365, 60:540] != plane[0, 0]).any()  # and below it
