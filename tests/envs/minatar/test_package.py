"""Our MinAtar is the package's, step for step: states, rewards, ends, with the same random numbers."""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("minatar")

import torch

from prefrl.envs.core.backend import Backend
from prefrl.envs.core.device import TorchBackend
from tests.envs.minatar.oracle import GAMES, RAMPED, Both, play

every_game = pytest.mark.parametrize("game", GAMES)
on_both = pytest.mark.parametrize(
    "backend", [None, TorchBackend("cpu", torch.float64)], ids=["numpy", "torch"]
)
RANDOM_ENDS = {"asterix": 20, "breakout": 200, "freeway": 0, "seaquest": 60, "space_invaders": 40}
"""What 3,000 random steps see at least."""


@every_game
@on_both
def test_random_play(game: str, backend: Backend | None) -> None:
    both = play(Both(game, backend=backend), 3_000)
    assert both.ends >= RANDOM_ENDS[game]
    assert both.best > 0 or game == "freeway"


@pytest.mark.parametrize("game", RAMPED)
def test_random_play_that_does_not_get_harder(game: str) -> None:
    both = play(Both(game, ramping=False, sticky=0.25, seed=1), 3_000)
    assert both.ends >= RANDOM_ENDS[game]


@pytest.mark.slow
@every_game
@pytest.mark.parametrize("ramping", [True, False])
def test_a_hundred_thousand_random_steps(game: str, ramping: bool) -> None:
    if not ramping and game not in RAMPED:
        pytest.skip("never gets harder")
    both = play(Both(game, ramping=ramping, seed=2), 100_000)
    assert both.steps == 100_000
    assert both.best > 0


def follow_the_ball(env: Any, rng: np.random.Generator) -> int:
    """Stay below the ball, or at last go where it goes, so that it comes from beside the paddle."""
    comes = env.ball_dir >= 2
    if not comes and rng.random() < 0.05:
        return int(rng.integers(6))
    beside = comes and env.ball_y == 8 and env.pos == env.ball_x and rng.random() < 0.5
    target = env.ball_x + ((1 if env.ball_dir == 2 else -1) if beside else 0)
    return 1 if target < env.pos else 3 if target > env.pos else 0


@on_both
def test_breakout_has_a_second_wall(backend: Backend | None) -> None:
    both = play(Both("breakout", sticky=0.0, backend=backend), 6_000, follow_the_ball)
    assert both.best > 60


@on_both
def test_freeway_is_crossed_and_ends_by_its_time(backend: Backend | None) -> None:
    def cross(env: Any, rng: np.random.Generator) -> int:
        return 2 if rng.random() < 0.95 else int(rng.integers(6))

    both = play(Both("freeway", rows=2, backend=backend), 2 * 2_500, cross)
    assert both.best >= 10
    assert both.ends == 0
    both.step(cross)
    assert both.ends == 2


@on_both
def test_asterix_gets_as_fast_as_it_can(backend: Backend | None) -> None:
    both = play(Both("asterix", rows=3, immortal=True, backend=backend), 6_000)
    for row in both.rows:
        assert (row.env.spawn_speed, row.env.move_speed) == (1, 1)
    assert both.ends > 100
    assert both.best > 20


def shoot(env: Any, rng: np.random.Generator) -> int:
    """Shoot whenever there is something above, and go where there is."""
    columns = np.flatnonzero(env.alien_map.any(0))
    if env.shot_timer == 0 and rng.random() < 0.7:
        return 5
    target = columns[np.abs(columns - env.pos).argmin()]
    return (
        int(rng.integers(6))
        if rng.random() < 0.3
        else 1
        if target < env.pos
        else 3
        if target > env.pos
        else 5
    )


@on_both
@pytest.mark.parametrize("ramping", [True, False])
def test_space_invaders_come_in_waves(ramping: bool, backend: Backend | None) -> None:
    """The aliens of games that go on after their end walk through the lowest row into the highest."""
    both = Both("space_invaders", rows=6, immortal=True, ramping=ramping, backend=backend)
    play(both, 12_000, shoot)
    assert min(row.env.enemy_move_interval for row in both.rows) == (6 if ramping else 12)
    assert both.best > 24 * 5
    assert both.ends > 100


def dive(env: Any, rng: np.random.Generator) -> int:
    """Gather divers, shoot, and come up with six, for air, or as soon as coming up is free."""
    if rng.random() < 0.2:
        return int(rng.integers(6))
    if env.diver_count == 6 or (env.diver_count < 0 and env.sub_y > 1) or env.oxygen < 12:
        return 2
    if env.sub_y == 0:
        return 4
    if env.shot_timer == 0 and rng.random() < 0.3:
        return 5
    if not env.divers:
        return int(rng.integers(6))
    x, y = min(env.divers, key=lambda diver: abs(diver[0] - env.sub_x) + abs(diver[1] - env.sub_y))[:2]
    if y != env.sub_y:
        return 2 if y < env.sub_y and env.sub_y > 1 else 4
    return 1 if x < env.sub_x else 3


@on_both
def test_seaquest_with_six_divers_and_at_its_fastest(backend: Backend | None) -> None:
    both = Both("seaquest", rows=6, immortal=True, backend=backend)
    counts, most, paid = set(), 0, 0
    while both.steps < 9_000:
        before = [row.env.diver_count for row in both.rows]
        returns = both.returns.copy()
        both.step(dive)
        for i, row in enumerate(both.rows):
            counts.add((before[i], row.env.diver_count))
            most = max(most, len(row.env.e_fish) + len(row.env.e_subs))
            paid += (before[i], row.env.diver_count) == (6, -1) and both.returns[i] > returns[i]
    assert {(5, 6), (6, -1), (-1, -2), (3, 2)} <= counts
    assert paid
    assert {(row.env.e_spawn_speed, row.env.move_speed) for row in both.rows} == {(1, 2)}
    assert most > 16  # enemies at once
    assert both.ends > 100


def play_from(theirs: dict[str, Any], ours: dict[str, Any]) -> Both:
    """Thirty steps of Seaquest from what is given of the state, without a move."""
    both = Both("seaquest", rows=1, sticky=0.0)
    for name, value in theirs.items():
        setattr(both.rows[0].env, name, value)
    for name, values in ours.items():
        found = np.array(values)
        both.state[name] = both.state[name].copy()
        both.state[name][..., : found.shape[-1]] = found
    both.compare()
    for _ in range(30):
        both.step(lambda env, rng: 0)
    return both


def test_seaquest_where_several_meet() -> None:
    """Two bullets come to one cell with a submarine, and there are more divers than there is room for."""
    both = play_from(
        {
            "f_bullets": [[3, 3, True], [5, 3, False]],  # the older one first, as all of them
            "e_subs": [[3, 3, True, 0, 5], [7, 5, False, 9, 5]],
            "e_fish": [[6, 5, False, 3], [2, 3, True, 0]],
            "divers": [[5, 6, True, 3], [4, 6, True, 0], [6, 6, False, 0]],
            "sub_x": 5, "sub_y": 6, "diver_count": 4, "surface": False,
        },
        {
            "bullet_rows": [[3, 3]], "bullet_columns": [[5, 3]], "bullet_motions": [[-1, 1]],
            "enemy_kind": [[2, 2, 1, 1]], "enemy_row": [[3, 5, 5, 3]], "enemy_column": [[3, 7, 6, 2]],
            "enemy_motion": [[1, -1, -1, 1]], "enemy_timer": [[0, 9, 3, 0]], "enemy_shot": [[5, 5, 0, 0]],
            "diver_here": [[1, 1, 1]], "diver_row": [[6, 6, 6]], "diver_column": [[5, 4, 6]],
            "diver_motion": [[1, 1, -1]], "diver_timer": [[3, 0, 0]],
            "row": [6], "column": [5], "rescued": [4], "surfaced": [0], "next_slot": [4],
            "next_diver_slot": [3],
        },
    )  # fmt: skip
    assert both.best == 2


def test_seaquest_where_two_swim_into_a_bullet() -> None:
    """The last that came is hit; the other one shoots at another time."""
    both = play_from(
        {"f_bullets": [[4, 3, False]], "e_subs": [[2, 3, True, 0, 3], [2, 3, True, 0, 7]]},
        {
            "bullet_rows": [[3]], "bullet_columns": [[4]], "bullet_motions": [[-1]],
            "enemy_kind": [[2, 2]], "enemy_row": [[3, 3]], "enemy_column": [[2, 2]],
            "enemy_motion": [[1, 1]], "enemy_timer": [[0, 0]], "enemy_shot": [[3, 7]], "next_slot": [2],
        },
    )  # fmt: skip
    assert both.best == 1
