"""Cross-validation over answers: what is known of an answer that is held out, and what is not."""

import math
from collections.abc import Callable

import pytest
import torch

from prefrl.audit.held_out import Candidate, candidates, coin, folds_of, held_out, told
from prefrl.preferences.general_models import BradleyTerry, Comparisons


def answers(seed: int, count: int = 60, options: int = 5, users: int = 1) -> Comparisons:
    """Answers at random to random pairs, by users in turn."""
    g = torch.Generator().manual_seed(seed)
    first = torch.randint(options, (count,), generator=g)
    second = (first + torch.randint(1, options, (count,), generator=g)) % options
    labels = torch.randint(2, (count,), generator=g).double()
    who = torch.arange(count) % users
    return Comparisons(first, second, labels, options, None, who if users > 1 else None, users)


@pytest.mark.parametrize("users", [1, 4])
def test_folds_share_out_the_answers_of_each_user(users: int) -> None:
    comparisons = answers(0, users=users)
    folds = folds_of(comparisons, 5, torch.Generator().manual_seed(0))
    table = torch.zeros(5, users)
    table.index_put_((folds, comparisons.user), torch.ones(60), accumulate=True)
    assert float(table.max() - table.min()) <= 1.0
    assert folds_of(comparisons, 5, torch.Generator().manual_seed(1)).tolist() != folds.tolist()
    for count in (1, 61):
        with pytest.raises(ValueError, match="it must lie in 2 to 60"):
            folds_of(comparisons, count, torch.Generator())


def test_a_prediction_is_a_fit_to_the_other_folds() -> None:
    comparisons = answers(1)
    folds = folds_of(comparisons, 3, torch.Generator().manual_seed(0))
    models = candidates(comparisons, (1,), (), 0)
    found = held_out(comparisons, models, folds)["bradley_terry"]
    model = models["bradley_terry"].make()
    for fold in range(3):
        model.fit(comparisons[folds != fold])
        margins = model.margins(comparisons[folds == fold])
        chance = torch.sigmoid(margins * (2.0 * comparisons.labels[folds == fold] - 1.0))
        torch.testing.assert_close(found.losses[folds == fold], -chance.log())
        assert torch.equal(found.hits[folds == fold], (chance > 0.5).double())


def test_an_option_and_a_user_that_other_folds_do_not_know() -> None:
    """Option 3 was compared once, and user 1 answered once: a coin for all, and for groups alone."""
    first, second = torch.tensor([0, 1, 0, 1, 3, 0]), torch.tensor([1, 2, 2, 2, 0, 1])
    users = torch.tensor([0, 2, 0, 2, 0, 1])
    comparisons = Comparisons(first, second, torch.ones(6, dtype=torch.float64), 4, None, users, 3)
    models = candidates(comparisons, (1,), (2,), 0)
    found = held_out(comparisons, models, torch.tensor([0, 0, 1, 1, 2, 3]))
    for prediction in found.values():
        assert float(prediction.losses[4]) == pytest.approx(math.log(2.0))
        assert float(prediction.hits[4]) == 0.5
    assert float(found["pal_2"].losses[5]) == pytest.approx(math.log(2.0))
    assert float(found["bradley_terry"].losses[5]) < 0.6


def test_leads_over_a_coin_by_hand() -> None:
    comparisons = answers(2, count=4)
    flat = coin(comparisons)
    assert flat.log_loss == pytest.approx(math.log(2.0))
    assert flat.accuracy == 0.5
    better = type(flat)(torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64), flat.hits, flat.weights)
    gain, error = better.ahead_of(flat)
    assert gain == pytest.approx(math.log(2.0) - 0.25)
    assert error == pytest.approx(math.sqrt(0.05) / 4.0)


def test_which_models_there_are() -> None:
    one, several = answers(3), answers(3, users=3)
    assert list(candidates(one, (), (), 0)) == ["bradley_terry", "thurstone", "gpm_1", "gpm_2"]
    assert "pal_2" in candidates(several, (), (), 0)
    assert list(candidates(answers(3, options=3), (), (), 0))[2:] == ["gpm_1"]
    refused: list[tuple[str, Callable[[], object]]] = [
        ("blocks is 3; 5 inputs of options allow at most 2", lambda: candidates(one, (3,), (), 0)),
        ("prototypes is 4; 3 users allow at most 3", lambda: candidates(several, (), (4,), 0)),
        ("prototypes is 2; 1 users allow at most 0", lambda: candidates(one, (), (2,), 0)),
    ]
    for message, call in refused:
        with pytest.raises(ValueError, match=message):
            call()


def test_squares_are_products_of_features() -> None:
    features = torch.tensor(
        [[1.0, 2.0], [3.0, -1.0], [0.0, 1.0], [1.0, 1.0], [2.0, 2.0]], dtype=torch.float64
    )
    one = answers(4)
    with_features = Comparisons(one.first, one.second, one.labels, 5, features=features)
    found = told(with_features, Candidate(BradleyTerry, "scalar", squares=True)).features
    assert found is not None
    assert found[1].tolist() == [3.0, -1.0, 9.0, -3.0, 1.0]


def test_one_ideal_is_a_reward_and_no_group() -> None:
    kinds = {name: each.kind for name, each in candidates(answers(0, users=4), (1,), (1, 2), 0).items()}
    assert (kinds["pal_1"], kinds["pal_2"]) == ("scalar", "groups")
