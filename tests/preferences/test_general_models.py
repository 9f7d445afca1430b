"""General preference models: one face, what each is in a special case, what it refuses, its file."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from prefrl.data import Preferences, Segments
from prefrl.preferences.general_models import (
    GPM,
    PAL,
    BradleyTerry,
    BradleyTerryConfig,
    Comparisons,
    GeneralModel,
    GPMConfig,
    PALConfig,
    ScoredModel,
    Thurstone,
    ThurstoneConfig,
    load_general_model,
)
from prefrl.preferences.general_models.base import encoded
from prefrl.preferences.general_models.comparisons import ModelSizes
from prefrl.preferences.label_models import EnsembleVote


def drawn(seed: int, count: int = 60, *, options: int = 6, users: int = 4, features: int = 0,
          contexts: int = 0) -> Comparisons:  # fmt: skip
    """Comparisons at random, at least one by each user."""
    g = torch.Generator().manual_seed(seed)
    first = torch.randint(options, (count,), generator=g)
    second = (first + torch.randint(1, options, (count,), generator=g)) % options

    def table(rows: int, columns: int) -> torch.Tensor | None:
        return torch.randn(rows, columns, generator=g, dtype=torch.float64) if columns else None

    return Comparisons(
        first, second, torch.rand(count, generator=g, dtype=torch.float64), options,
        torch.randint(1, 4, (count,), generator=g).double(), torch.arange(count) % users, users,
        table(options, features), table(count, contexts),
    )  # fmt: skip


MODELS: dict[str, GeneralModel] = {
    "bradley_terry": BradleyTerry(),
    "thurstone": Thurstone(),
    "gpm": GPM(GPMConfig(starts=1, max_iterations=20)),
    "gpm_free": GPM(GPMConfig(starts=1, max_iterations=20, normalise=False)),
    "pal_a": PAL(PALConfig(starts=1, max_iterations=20, prototypes=2)),
    "pal_b": PAL(PALConfig(form="B", starts=1, max_iterations=20, prototypes=2)),
}
DATA = {
    "table": drawn(0),
    "features": drawn(1, features=3),
    "contexts": drawn(2, features=3, contexts=2),
}


CASES = [(m, d) for m in MODELS for d in DATA if (m, d) != ("pal_a", "contexts")]


@pytest.fixture(params=CASES, ids="-".join)
def fitted(request: pytest.FixtureRequest) -> tuple[GeneralModel, Comparisons]:
    name, data = request.param
    template = MODELS[name]
    model = type(template)(template.config, seed=3)
    model.fit(DATA[data])
    return model, DATA[data]


def sides(data: Comparisons) -> tuple[torch.Tensor, torch.Tensor]:
    if data.features is None:
        return data.first, data.second
    return data.features[data.first], data.features[data.second]


def test_one_face(fitted: tuple[GeneralModel, Comparisons], tmp_path: Path) -> None:
    model, data = fitted
    first, second = sides(data)
    margin = model.margin(first, second, data.user, data.contexts)
    torch.testing.assert_close(margin, model.margins(data), rtol=0.0, atol=0.0)
    turned = model.margin(second, first, data.user, data.contexts)
    torch.testing.assert_close(turned, -margin, rtol=0.0, atol=1e-12)
    torch.testing.assert_close(
        model.probability(first, second, data.user, data.contexts), torch.sigmoid(margin)
    )
    model.save(tmp_path / "model.pt")
    again = load_general_model(tmp_path / "model.pt")
    assert (type(again), again.config, again.sizes, again.seed) == (
        type(model), model.config, model.sizes, 3,
    )  # fmt: skip
    torch.testing.assert_close(again.margins(data), margin, rtol=0.0, atol=0.0)
    if isinstance(model, ScoredModel) and not isinstance(model, Thurstone):
        scores = [model.score(side, data.user, data.contexts) for side in (first, second)]
        torch.testing.assert_close(scores[1] - scores[0], margin, rtol=0.0, atol=1e-12)


def planted(name: str, data: Comparisons, seed: int) -> GeneralModel:
    """A model with parameters at random."""
    model, sizes = type(MODELS[name])(MODELS[name].config), ModelSizes.of(data)
    g = torch.Generator().manual_seed(seed)
    model.take(
        {n: 0.7 * torch.randn(s, generator=g, dtype=torch.float64) for n, s in model.shapes(sizes).items()},
        sizes,
    )
    return model


@pytest.mark.parametrize("name", MODELS)
def test_what_is_planted_is_found(name: str) -> None:
    """From exact probabilities; Thurstone's and PAL's priors cost a little."""
    data = drawn(9, 600, features=2, contexts=0 if name == "pal_a" else 1)
    truth = planted(name, data, 1)
    data = replace(data, labels=torch.sigmoid(truth.margins(data)))
    ridges = {"ridge": 1e-6} | ({"variance_ridge": 1e-6} if isinstance(truth, Thurstone) else {})
    model = type(truth)(replace(truth.config, **ridges), seed=0)
    if not isinstance(model, BradleyTerry):
        model.config = replace(model.config, starts=8, max_iterations=500)
    loss = float(model.fit(data)["loss"])
    assert loss == pytest.approx(float(truth.loss(data)), abs=1e-5)
    torch.testing.assert_close(model.margins(data), truth.margins(data), rtol=0.0, atol=0.05)


@pytest.mark.parametrize(("name", "data"), CASES)
def test_slopes_are_derivatives(name: str, data: str) -> None:
    model, about = planted(name, DATA[data], 0), DATA[data]
    slopes, before = model.slopes(about), dict(model.parameters)
    step, at = 1e-6, 0
    for part in sorted(before):
        for place in range(before[part].numel()):
            ends = []
            for way in (step, -step):
                moved = before[part].clone()
                moved.view(-1)[place] += way
                model.take({**before, part: moved}, model.sizes)
                ends.append(model.margins(about))
            wanted = (ends[0] - ends[1]) / (2 * step)
            torch.testing.assert_close(slopes[:, at + place], wanted, rtol=1e-4, atol=1e-5)
        at += before[part].numel()
    model.take(before, model.sizes)
    assert float(torch.linalg.eigvalsh(model.information(about)).min()) > -1e-8
    assert bool((model.standard_errors(about, about) > 0).all())


def test_merged_comparisons_have_the_same_likelihood() -> None:
    data = drawn(3, 400)
    merged = data.merged()
    assert len(merged) <= 4 * 15
    assert bool((merged.first < merged.second).all())
    assert float(merged.counts.sum()) == float(data.counts.sum())
    margins = torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    margins = margins - margins.T

    def answers(c: Comparisons) -> float:
        return float((c.counts * (c.labels - 0.5) * margins[c.first, c.second] * (1 + c.user)).sum())

    assert answers(merged) == pytest.approx(answers(data))
    torch.testing.assert_close(merged.wins(), data.wins())


def test_bradley_terry_on_a_table_is_that_on_unit_vectors() -> None:
    table = drawn(4)
    units = replace(table, features=torch.eye(6, dtype=torch.float64))
    models = [BradleyTerry(), BradleyTerry()]
    for model, data in zip(models, (table, units), strict=True):
        model.fit(data)
    torch.testing.assert_close(models[0].margins(table), models[1].margins(units), rtol=0.0, atol=1e-6)
    for mine, theirs in zip(models[0].intervals(table), models[1].intervals(units), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0.0, atol=1e-5)


def test_gpm_with_a_reward_and_one_is_bradley_terry() -> None:
    data = drawn(5)
    reference = BradleyTerry()
    reference.fit(data)
    utilities = reference.parameters["utilities"]
    model = GPM(GPMConfig(blocks=1, normalise=False, temperature=1.0))
    embeddings = torch.stack([utilities, torch.ones_like(utilities)], 1)
    model.take({"embeddings": embeddings, "gate": torch.zeros(1, 1).double()}, ModelSizes.of(data))
    torch.testing.assert_close(model.margins(data), reference.margins(data), rtol=0.0, atol=1e-15)


def test_pal_with_one_prototype_is_a_common_ideal_point() -> None:
    """Against scipy's fit of one point, among options that lie where they lie."""
    g = torch.Generator().manual_seed(0)
    options, ideal = torch.randn(30, 2, generator=g, dtype=torch.float64), torch.tensor([0.5, -1.0]).double()
    data = drawn(6, 300, options=30, users=5, features=2)
    worth = -4.0 * (options - ideal).norm(dim=1)
    chance = torch.sigmoid(worth[data.second] - worth[data.first])
    data = replace(data, labels=(torch.rand(300, generator=g).double() < chance).double(), features=options)
    model = PAL(PALConfig(prototypes=1, ridge=0.0))
    loss = float(model.fit(data)["loss"])
    x, label, weight = options.numpy(), data.labels.numpy(), data.counts.numpy()

    def common(theta: np.ndarray) -> float:
        """An ideal point, and a linear map of the plane into itself."""
        worth = -np.linalg.norm((x - theta[:2]) @ theta[2:].reshape(2, 2), axis=1)
        z = worth[data.second] - worth[data.first]
        return float((weight * (np.logaddexp(0.0, z) - label * z)).sum() / weight.sum())

    starts = [np.concatenate([start, 4.0 * np.eye(2).ravel()]) for start in ([0.5, -1.0], [0.0, 0.0])]
    found = min(minimize(common, start, options={"gtol": 1e-9}).fun for start in starts)
    assert loss == pytest.approx(found, abs=1e-6)
    users = [model.score(options, user) for user in range(5)]
    assert all(torch.equal(one, users[0]) for one in users)


def test_new_users_change_nobody_else() -> None:
    data = drawn(7, 200, features=2)
    model = PAL(PALConfig(starts=2, prototypes=2))
    model.fit(data)
    before = model.margins(data)
    new = model.add_users(drawn(8, 20, users=3, features=2))
    assert new.tolist() == [4, 5, 6]
    torch.testing.assert_close(model.margins(replace(data, num_users=7)), before, rtol=0.0, atol=0.0)
    assert model.score(torch.zeros(2).double(), 6).shape == ()
    with pytest.raises(ValueError, match="user is unknown: 7; the fit knew 0 to 6"):
        model.score(torch.zeros(2).double(), 7)


def test_bootstrap_and_wald_agree_where_there_is_much_data() -> None:
    g = torch.Generator().manual_seed(0)
    truth = torch.tensor([1.0, 0.3, -0.2, -1.1], dtype=torch.float64)
    first, second = torch.triu_indices(4, 4, 1)
    won = torch.binomial(torch.full((6,), 200.0).double(), torch.sigmoid(truth[second] - truth[first]), g)
    data = Comparisons(first, second, won / 200.0, 4, torch.full((6,), 200.0).double())
    model = BradleyTerry()
    model.fit(data)
    wald = model.intervals(data)
    boot = model.intervals(data, method="bootstrap", resamples=400)
    ratio = (boot[1] - boot[0]) / (wald[1] - wald[0])
    assert bool(((ratio > 0.85) & (ratio < 1.15)).all())
    assert bool(((wald[0] < truth) & (truth < wald[1])).all())
    with pytest.raises(ValueError, match="a bootstrap draws answers"):
        model.intervals(replace(data, labels=data.labels + 1.0), method="bootstrap")
    with pytest.raises(ValueError, match="method is 'jackknife'"):
        model.intervals(data, method="jackknife")  # type: ignore[arg-type]


def test_pessimism_takes_off_more_where_less_was_asked() -> None:
    wins = torch.zeros(3, 3)
    wins[0, 1], wins[1, 0], wins[0, 2], wins[2, 0] = 100, 100, 2, 2
    data = Comparisons.from_wins(wins)
    model = BradleyTerry()
    model.fit(data)
    scores = model.pessimistic(torch.arange(3), data)
    assert float(scores[2]) < float(scores[0])
    torch.testing.assert_close(
        model.pessimistic(torch.arange(3), data, 0.0), model.score(torch.arange(3)), atol=1e-9, rtol=0.0
    )


def segments(features: torch.Tensor) -> Segments:
    n = len(features)
    nothing = torch.zeros(n, dtype=torch.int64)
    return Segments(nothing[:, None].expand(n, 3), nothing[:, None].expand(n, 2), nothing + 2, nothing > 0,
                    features[:, None].expand(n, 2, -1) / 2.0)  # fmt: skip


def test_segments_through_their_features_and_into_a_label_model() -> None:
    g = torch.Generator().manual_seed(0)
    first, second = torch.randn(2, 200, 2, generator=g, dtype=torch.float64)
    labels = ((second - first)[:, 0] > 0).double()
    preferences = Preferences.from_labels(segments(first), segments(second), labels)
    data = Comparisons.from_preferences(preferences)
    torch.testing.assert_close(data.features, torch.cat([first, second]))
    for model in (BradleyTerry(), Thurstone(), PAL(PALConfig(prototypes=1, starts=4))):
        assert float(model.fit(data)["accuracy"]) > 0.95
        assert isinstance(model, ScoredModel)
        flipped = replace(preferences, labels=torch.where(torch.arange(200) < 10, 1.0 - labels, labels))
        voted = EnsembleVote(model.scores, "flip", flip_share=0.05)(flipped)
        assert float((voted.labels - labels).abs().mean()) < 0.02
    half = Comparisons.from_preferences(preferences, lambda s: torch.ones(len(s), 1).double())
    assert half.features is not None
    assert half.features.shape == (400, 1)
    with pytest.raises(ValueError, match="all options have the same features"):
        Thurstone().fit(half)


def test_doors_of_comparisons() -> None:
    good = drawn(0)
    for change, error, words in [
        ({"first": good.first.float()}, TypeError, "first is torch.float32"),
        ({"labels": good.labels[:-1]}, ValueError, r"labels has shape \[59\]; it must be \[60\]"),
        ({"labels": good.labels / 0.0}, ValueError, "labels holds NaN or infinity"),
        ({"second": good.first}, ValueError, "comparison 0 is of option"),
        ({"num_options": 5}, ValueError, "range from 0 to 5; they must lie in 0 to 4"),
        ({"num_users": 3}, ValueError, "users range from 0 to 3"),
        ({"weights": -good.counts}, ValueError, "weights must not be negative"),
        ({"features": torch.zeros(7, 2).double()}, ValueError, r"features has shape \[7, 2\]"),
    ]:
        with pytest.raises(error, match=words):
            replace(good, **change)
    with pytest.raises(ValueError, match="there is no comparison"):
        good[torch.zeros(0, dtype=torch.int64)]
    with pytest.raises(ValueError, match=r"wins has shape \[2, 3\]"):
        Comparisons.from_wins(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="wins holds negative"):
        Comparisons.from_wins(torch.full((2, 2), -1.0))


def test_wins_and_back() -> None:
    wins = torch.tensor([[0.0, 3.0, 0.0], [1.0, 0.0, 5.0], [0.0, 0.0, 0.0]])
    data = Comparisons.from_wins(wins)
    torch.testing.assert_close(data.wins(), wins.double())
    assert data.labels.tolist() == [0.25, 0.0]  # the second, 1, won one of four; 2 none of five
    both = Comparisons.from_wins(torch.stack([wins, 2.0 * wins]))
    assert both.num_users == 2
    torch.testing.assert_close(both.wins(), 3.0 * wins.double())


@pytest.mark.parametrize("model", [BradleyTerry(), Thurstone(), GPM(), PAL(PALConfig(prototypes=1))])
def test_options_that_nobody_compared(model: GeneralModel) -> None:
    wins = torch.zeros(5, 5)
    wins[0, 1] = wins[2, 3] = 1.0
    with pytest.raises(ValueError, match=r"option 4 was never compared \(1 of 5 options\)"):
        model.fit(Comparisons.from_wins(wins))
    with pytest.raises(ValueError, match="no chain of comparisons links option 0 and option 2"):
        model.fit(Comparisons.from_wins(wins[:4, :4]))


def test_doors_of_models() -> None:
    data = drawn(0)
    with pytest.raises(RuntimeError, match="BradleyTerry is not fitted"):
        BradleyTerry().margin(0, 1)
    with pytest.raises(RuntimeError, match="GPM is not fitted; there is nothing to save"):
        GPM().save("nowhere")
    with pytest.raises(TypeError, match="config is a GPMConfig; it must be PALConfig"):
        PAL(GPMConfig())
    with pytest.raises(ValueError, match="blocks is 4; 6 options allow at most 3"):
        GPM(GPMConfig(blocks=4, normalise=False)).fit(data)
    with pytest.raises(ValueError, match="blocks is 4; 3 features allow at most 3"):
        GPM(GPMConfig(blocks=4)).fit(drawn(1, features=3))
    with pytest.raises(ValueError, match="prototypes is 5; 4 users allow at most"):
        PAL(PALConfig(prototypes=5)).fit(data)
    with pytest.raises(ValueError, match="dimension is 7; 6 options allow at most 6"):
        PAL(PALConfig(dimension=7)).fit(data)
    with pytest.raises(ValueError, match=r"user 4 gave no answer \(1 of 5 users"):
        PAL().fit(replace(data, num_users=5))
    with pytest.raises(ValueError, match="form 'A' does not look at"):
        PAL().fit(DATA["contexts"])
    model = PAL(PALConfig(starts=1, prototypes=2))
    model.fit(data)
    with pytest.raises(ValueError, match="user is None; give one of the 4 users"):
        model.margin(0, 1)
    with pytest.raises(ValueError, match="user is unknown: 9"):
        model.margin(0, 1, 9)
    with pytest.raises(ValueError, match="second is unknown: 6; the fit knew 0 to 5"):
        model.margin(0, 6, 0)
    with pytest.raises(ValueError, match=r"first is torch.float32; it must hold whole numbers"):
        model.margin(0.5, 1, 0)
    with pytest.raises(ValueError, match=r"context has shape \[2\]; it must be \[..., 0\]"):
        model.margin(0, 1, 0, torch.zeros(2))
    with pytest.raises(ValueError, match="num_options of the comparisons is 7"):
        model.margins(drawn(0, options=7))
    with pytest.raises(ValueError, match="num_options of the comparisons is 7"):
        model.add_users(drawn(0, options=7))
    linear = BradleyTerry(BradleyTerryConfig(ridge=0.0))
    linear.fit(DATA["features"])
    with pytest.raises(ValueError, match=r"first is torch.int64 \[\]; the model was fitted to features"):
        linear.margin(0, 1)


def test_users_are_known_by_their_names(tmp_path: Path) -> None:
    """Else a file that names the same people in another order would be read as each other's answers."""
    data = replace(DATA["table"], user_names=("ann", "bob", "cyd", "dan"))
    model = PAL(PALConfig(prototypes=2, starts=1))
    model.fit(data)
    model.save(tmp_path / "model.pt")
    turned = replace(data, user_names=("bob", "ann", "cyd", "dan"))
    for each in (model, load_general_model(tmp_path / "model.pt")):
        each.margins(data)
        each.margins(replace(data, user_names=None))
        with pytest.raises(ValueError, match="user 0 of the comparisons is 'bob'; in the fit it was 'ann'"):
            each.margins(turned)
    model.add_users(replace(data, user_names=("eve", "fay", "gil", "hal")))
    assert model.user_names == ("ann", "bob", "cyd", "dan", "eve", "fay", "gil", "hal")
    with pytest.raises(ValueError, match="user_names are 1; there are 4 users"):
        replace(data, user_names=("ann",))
    with pytest.raises(ValueError, match="user_names have 'gil' more than once"):
        model.add_users(replace(data, user_names=("gil", "ida", "jon", "kim")))
    assert len(model.parameters["users"]) == 8  # nobody was added


def test_names_tell_users_apart(tmp_path: Path) -> None:
    data = DATA["table"]
    wrong: tuple[Any, ...] = (("ann", "bob", "ann", "dan"), "abcd", ["a", "b", "c", "d"], (1, 2, 3, 4))
    for names in wrong:
        with pytest.raises(ValueError, match="user_names"):
            replace(data, user_names=names)
    sizes: tuple[dict[str, Any], ...] = ({"num_options": 6.0}, {"num_options": 0}, {"num_users": True})
    for size in sizes:
        with pytest.raises(ValueError, match="it must be a whole number of at least 1"):
            replace(data, **size)
    model = PAL(PALConfig(prototypes=2, starts=1))
    model.fit(replace(data, user_names=("ann", "bob", "cyd", "dan")))
    for names in (("ann", "bob", "cyd"), ("ann", "bob", "cyd", "ann")):
        model.user_names = names
        model.save(tmp_path / "model.pt")
        with pytest.raises(ValueError, match="user_names"):
            load_general_model(tmp_path / "model.pt")


def test_damaged_files(tmp_path: Path) -> None:
    from prefrl.data.files.tensor_file import read_tensor_file, write_tensor_file

    model = Thurstone(ThurstoneConfig(ridge=0.5))
    model.fit(drawn(0))
    path = tmp_path / "model.pt"
    model.save(path)
    content = read_tensor_file(path, "model")
    for change, words in [
        ({"means": content["parameters"]["means"][:-1]}, r"means is torch.float64 \[5, 1\]"),
        ({"means": content["parameters"]["means"] / 0.0}, "means holds NaN or infinity"),
        ({"more": content["parameters"]["means"]}, "parameters are"),
    ]:
        write_tensor_file(path, {**content, "parameters": {**content["parameters"], **change}})
        with pytest.raises(ValueError, match=words):
            load_general_model(path)
    for old, new, words in [
        ('"format": 1', '"format": 9', "it has format 9; this version reads 1"),
        ("thurstone", "nonsense", "it holds a model 'nonsense'"),
        ('"ridge": 0.5', '"ridge": -1', "ridge is -1.0; it must not be negative"),
    ]:
        write_tensor_file(path, {**content, "general_model": content["general_model"].replace(old, new)})
        with pytest.raises(ValueError, match=words):
            load_general_model(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(ValueError, match=r"damaged or no preference model"):
        load_general_model(path)


def test_gpm_by_hand() -> None:
    """Lengths 2 and 3, a quarter turn apart; the gate of the first block of two is log 3."""
    sizes = ModelSizes(2, 0, 1, 0)
    embeddings = torch.tensor([[0.0, 2.0, 1e-30, 0.0], [3.0, 0.0, 1e-30, 0.0]], dtype=torch.float64)
    parameters = {"embeddings": embeddings, "gate": torch.tensor([[3.0, 1.0]], dtype=torch.float64).log()}
    for normalise, wanted in ((False, 6.0), (True, 1.0)):
        model = GPM(GPMConfig(normalise=normalise, temperature=0.5))
        model.take(parameters, sizes)
        assert float(model.margin(0, 1)) == pytest.approx(2 * 0.75 * wanted / 0.5)


def test_pal_by_hand_and_by_what_new_users_say() -> None:
    """Two prototypes on a line, at 0 and at 4; the second user is a quarter of the way."""
    model = PAL(PALConfig(prototypes=2, dimension=1))
    column = torch.tensor([[0.0], [1.0], [4.0]], dtype=torch.float64)
    users = torch.tensor([[50.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    users[1, 0] = torch.tensor(3.0).double().log()
    model.take({"embeddings": column, "prototypes": column[[0, 2]], "users": users}, ModelSizes(3, 0, 2, 0))
    margins = model.margin([0, 0], 1, [0, 1])
    assert margins.tolist() == pytest.approx([-1.0, 1.0], abs=1e-5)
    # 2 beats 0 to one new user, 0 beats 2 to another.
    wins = torch.zeros(2, 3, 3)
    wins[0, 2, 0] = wins[1, 0, 2] = 5.0
    new = model.add_users(Comparisons.from_wins(wins))
    margins = model.margin(0, 2, new)
    assert float(margins[0]) > 2.0
    assert float(margins[1]) < -2.0


@pytest.mark.parametrize("data", [DATA["table"], DATA["features"]], ids=["table", "features"])
def test_units_of_thurstone(data: Comparisons) -> None:
    model = Thurstone()
    model.fit(data)
    options = torch.arange(6) if data.features is None else data.features
    log_variances = encoded(options, model.parameters["log_variances"])
    assert float(model.score(options).mean()) == pytest.approx(0.0, abs=1e-12)
    assert float(log_variances.mean()) == pytest.approx(0.0, abs=1e-12)


def test_thurstone_can_say_that_all_are_alike() -> None:
    """With means of a given size it could not: its loss was 1.01 where .693 can be had."""
    ties = Comparisons.from_wins(50.0 * (torch.ones(5, 5) - torch.eye(5)))
    model = Thurstone()
    assert float(model.fit(ties)["loss"]) == pytest.approx(math.log(2.0), abs=1e-9)
    assert float(model.score(torch.arange(5)).abs().max()) < 1e-4


def test_thurstone_tells_how_clear_answers_are() -> None:
    """Of two options only the difference counts, Phi(d / sqrt 2) of the answers."""
    shares = torch.tensor([[0.0, 0.55], [0.45, 0.0]], dtype=torch.float64)
    model = Thurstone()
    model.fit(Comparisons.from_wins(1e6 * shares))
    found = model.score(torch.tensor(0)) - model.score(torch.tensor(1))
    wanted = math.sqrt(2.0) * torch.special.ndtri(shares[0, 1])
    assert float(found) == pytest.approx(float(wanted), abs=1e-4)


def test_loss_and_accuracy_by_hand() -> None:
    model = BradleyTerry()
    utilities = torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64)
    model.take({"utilities": utilities}, ModelSizes(3, 0, 1, 0))
    wins = torch.tensor([[0.0, 1.0, 0.0], [3.0, 0.0, 2.0], [0.0, 2.0, 0.0]])
    data = Comparisons.from_wins(wins)
    assert float(model.accuracy(data)) == pytest.approx((3.0 + 2.0) / 8.0)
    right = 1.0 / (1.0 + np.exp(-1.0))
    entropy = -(3.0 * np.log(right) + np.log(1.0 - right) + 4.0 * np.log(0.5)) / 8.0
    assert float(model.loss(data)) == pytest.approx(entropy)


def test_scores_of_pal_as_a_table_are_those_of_each_comparison() -> None:
    """Where comparisons are many each user's score of each option is worked out once."""
    generator = torch.Generator().manual_seed(0)
    first = torch.randint(5, (200,), generator=generator)
    second = (first + 1 + torch.randint(4, (200,), generator=generator)) % 5
    labels = torch.rand(200, generator=generator, dtype=torch.float64).round()
    people = Comparisons(first, second, labels, 5, users=torch.arange(200) % 3, num_users=3)
    model = PAL(PALConfig(prototypes=2, dimension=1, starts=1, max_iterations=5))
    model.fit(people)
    alone = [
        model.margin(one, other, user) for one, other, user in zip(first, second, people.user, strict=True)
    ]
    torch.testing.assert_close(model.margins(people), torch.stack(alone), rtol=0.0, atol=1e-12)
