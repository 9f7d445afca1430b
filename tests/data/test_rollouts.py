"""Rollouts: what goes in comes out, cuts, states, and what belongs to which learner."""

from typing import Any

import pytest
import torch
from torch import Tensor

from prefrl.data.rollouts import Rollout, by_learner, each, in_time, one_of

CPU = torch.device("cpu")


def step(number: int, rows: int = 2) -> dict[str, Tensor]:
    return {
        "obs": torch.full((rows, 3), float(number), dtype=torch.float64),
        "actions": torch.arange(rows) + 10 * number,
        "truncations": torch.zeros(rows, dtype=torch.bool),
    }


def filled(count: int, steps: int = 4) -> Rollout:
    rollout = Rollout(steps)
    for number in range(count):
        rollout.add(step(number))
    return rollout


def test_steps_stand_in_their_order_in_their_own_kinds_of_number() -> None:
    rollout = filled(3)
    assert (rollout.size, rollout.full) == (3, False)
    assert rollout.storage["actions"][:3].tolist() == [[0, 1], [10, 11], [20, 21]]
    assert rollout.storage["obs"].dtype == torch.float64
    assert rollout.storage["obs"].shape == (4, 2, 3)
    rollout.add(step(3))
    assert rollout.full
    with pytest.raises(ValueError, match="the rollout holds its 4 steps"):
        rollout.add(step(4))
    rollout.clear()
    rollout.add(step(9))
    assert rollout.size == 1
    assert rollout.storage["actions"][0].tolist() == [90, 91]


def test_what_is_kept_is_a_copy() -> None:
    rollout, given = Rollout(2), step(1)
    rollout.add(given)
    given["obs"].zero_()
    assert (rollout.storage["obs"][0] == 1.0).all()


def test_a_cut_ends_the_newest_step_alone() -> None:
    rollout = filled(2)
    rollout.cut()
    rollout.add(step(2))
    assert rollout.storage["truncations"][:3].tolist() == [[False] * 2, [True] * 2, [False] * 2]
    empty = Rollout(2)
    empty.cut()
    empty.add(step(0))
    empty.clear()
    empty.cut()  # nothing of what was thrown away
    assert not empty.storage["truncations"].any()


@pytest.mark.parametrize("count", range(5))
def test_the_state_goes_on(count: int) -> None:
    rollout = filled(count)
    state: Any = {
        "steps": 4,
        "held": {name: value.clone() for name, value in rollout.state_dict()["held"].items()},
    }
    again = Rollout.restored(state, CPU)
    assert (again.steps, again.size) == (4, count)
    for number in range(count, 4):
        rollout.add(step(number))
        again.add(step(number))
    for name, value in rollout.storage.items():
        assert torch.equal(again.storage[name], value)
        assert again.storage[name].dtype == value.dtype


def test_a_state_of_more_steps_than_there_is_room_for_is_refused() -> None:
    with pytest.raises(ValueError, match="holds its 2 steps"):
        Rollout.restored({**filled(3).state_dict(), "steps": 2}, CPU)


def test_settings_of_each_learner() -> None:
    assert each(0.5, 3, CPU).tolist() == [[0.5]] * 3
    assert each((1.0, 2.0), 2, CPU).tolist() == [[1.0], [2.0]]
    assert each(1, 2, CPU).dtype == torch.float32


def test_rows_of_the_learners_and_back() -> None:
    # Value: time * 100 + learner * 10 + environment, for two learners with three environments each.
    steps = torch.tensor([[100 * t + 10 * s + n for s in range(2) for n in range(3)] for t in range(4)])
    rows = by_learner(steps, 2)
    assert rows[1].tolist() == [100 * t + 10 + n for t in range(4) for n in range(3)]
    assert torch.equal(in_time(rows, 4), steps)
    pictures = steps[..., None, None] + torch.zeros(5, 6)
    assert torch.equal(by_learner(pictures, 2)[..., 0, 0], rows.to(torch.float32))
    assert by_learner(pictures, 2).shape == (2, 12, 5, 6)


def test_one_of_several_is_a_copy_of_its_own() -> None:
    tree = {"w": torch.arange(6).view(3, 2), "count": 4, "deep": {"v": torch.arange(3.0)}}
    one = one_of(tree, 1)
    assert one["w"].tolist() == [[2, 3]]
    assert one["deep"]["v"].tolist() == [1.0]
    assert one["count"] == 4
    one["w"].zero_()
    assert tree["w"][1].tolist() == [2, 3]
