"""Search spaces are checked at the door."""

import pytest

from prefrl.tune.space import Choices, Range, check_space, config_of, parse_space, settings_of


def test_ranges_and_choices_are_of_the_settings_types():
    space = parse_space(
        "dqn", ["learning_rate=log:1e-4..1e-2", "batch_size=16..256", "loss=mse,huber", "double=True,False"]
    )
    names = {name.split(".")[-1]: where for name, where in space.items()}
    assert names["learning_rate"] == Range(1e-4, 1e-2, log=True)
    assert names["batch_size"] == Range(16, 256)
    assert isinstance(names["batch_size"].low, int)
    assert names["loss"] == Choices({"mse": "mse", "huber": "huber"})
    assert names["double"] == Choices({"True": True, "False": False})


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("gama=0.9..0.99", "'gama' of the recipe q_learning is unknown"),
        ("gamma", "each must be FIELD=LOW..HIGH"),
        ("gamma=0.99..0.9", "low end must be below"),
        ("gamma=a..b", "must be of type"),
        ("gamma=0.9", "at least two"),
        ("gamma=0.9,0.9", "each once"),
        ("learning_rate=log:0..1", "both ends must be above 0"),
        ("seed=0..9", "seed is no setting to tune"),
        ("device=cpu..cuda", "must be LOW..HIGH, of numbers"),
    ],
)
def test_what_is_no_space_is_refused(text, problem):
    with pytest.raises(ValueError, match=problem):
        parse_space("q_learning", [text])


def test_a_space_is_named_once_and_not_empty():
    with pytest.raises(ValueError, match="twice"):
        parse_space("q_learning", ["gamma=0.9..0.99", "agent.gamma=0.9,0.99"])
    with pytest.raises(ValueError, match="empty"):
        parse_space("q_learning", [])


def test_the_recipe_checks_the_ends_of_a_range():
    with pytest.raises(ValueError, match=r"gamma is 1\.5"):
        check_space("q_learning", parse_space("q_learning", ["gamma=0.9..1.5"]), {})
    with pytest.raises(ValueError, match="in space and in set"):
        check_space("q_learning", parse_space("q_learning", ["gamma=0.9,0.8"]), {"agent.gamma": 0.9})


def test_fixed_settings():
    assert settings_of("q_learning", {"gamma": ["0.9"]}) == {"agent.gamma": 0.9}
    assert config_of("q_learning", {"agent.gamma": 0.9}, 3)["agent"]["gamma"] == 0.9
    assert config_of("q_learning", {"agent.gamma": 0.9}, 3)["seed"] == 3
    with pytest.raises(ValueError, match="2 values; those that are to be tried"):
        settings_of("q_learning", {"gamma": ["0.9", "0.8"]})
