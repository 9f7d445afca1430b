"""Answers out of every format: which segments are one option, and what is known of them."""

from pathlib import Path

import pytest
import torch

from prefrl.audit.answers import described, from_preferences, read_answers
from prefrl.data import Preferences, Segments, save_preferences
from prefrl.preferences.general_models import Comparisons


def steps(obs: list[int], actions: list[int], features: torch.Tensor | None = None) -> Segments:
    """Segments of one step in a tabular environment."""
    count = len(obs)
    return Segments(
        torch.tensor([[o, 9] for o in obs]), torch.tensor(actions)[:, None],
        torch.ones(count, dtype=torch.int64), torch.ones(count, dtype=torch.bool), features,
    )  # fmt: skip


def clips(seed: int, count: int, length: int = 3) -> Segments:
    """Segments of two numbers per observation and one of three actions, of different lengths."""
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, length + 1, (count,), generator=g)
    obs = torch.randn(count, length + 1, 2, generator=g, dtype=torch.float64)
    actions = torch.randint(3, (count, length), generator=g)
    for i, n in enumerate(lengths.tolist()):
        obs[i, n + 1 :] = obs[i, n]
        actions[i, n:] = 0
    return Segments(obs, actions, lengths, torch.zeros(count, dtype=torch.bool))


def test_the_same_step_is_one_option_of_a_table() -> None:
    preferences = Preferences.from_labels(
        steps([0, 0, 1, 0], [0, 1, 0, 0]),
        steps([0, 1, 0, 0], [1, 0, 0, 0]),
        torch.tensor([1.0, 0.0, 0.5, 1.0]),
    )
    answers = from_preferences(preferences)
    comparisons = answers.comparisons
    assert comparisons.features is None
    assert answers.left_out == 1  # the last is of a step with itself
    assert comparisons.num_options == 3
    assert int(comparisons.second[0]) == int(comparisons.first[1])  # (0, 1)
    assert int(comparisons.first[0]) == int(comparisons.second[2])  # (0, 0)
    assert comparisons.labels.tolist() == [1.0, 0.0, 0.5]


def test_equal_clips_are_one_option_with_features() -> None:
    first, second = clips(0, 6), clips(1, 6)
    twice = Preferences.from_labels(
        Segments(*(torch.cat([getattr(first, name)] * 2) for name in ("obs", "actions", "lengths",
                                                                     "terminated"))),
        Segments(*(torch.cat([getattr(second, name)] * 2) for name in ("obs", "actions", "lengths",
                                                                      "terminated"))).padded(4),
        torch.ones(12, dtype=torch.float64),
    )  # fmt: skip
    comparisons = from_preferences(twice).comparisons
    assert comparisons.num_options == 12  # 24 segments, each twice
    assert torch.equal(comparisons.first[:6], comparisons.first[6:])
    assert comparisons.features is not None
    differences = comparisons.features[comparisons.second] - comparisons.features[comparisons.first]
    torch.testing.assert_close(differences.square().mean(0), torch.ones(5, dtype=torch.float64))


def test_sums_of_observations_and_actions_by_hand() -> None:
    segments = Segments(
        torch.tensor([[[1.0], [2.0], [7.0]], [[5.0], [6.0], [6.0]]], dtype=torch.float64),
        torch.tensor([[2, 1], [2, 0]]), torch.tensor([2, 1]), torch.tensor([False, False]),
    )  # fmt: skip
    features, known = described(segments)
    assert features.tolist() == [[3.0, 0.0, 1.0, 1.0], [5.0, 0.0, 0.0, 1.0]]  # padding counts nowhere
    assert known == "sums of observations and actions"


def test_weights_of_whole_answers_are_answers(tmp_path: Path) -> None:
    path = tmp_path / "answers.csv"
    path.write_text("first,second,label,weight\na,b,0.75,4\nb,c,0,2\nc,a,1,1\n")
    comparisons = read_answers(path).comparisons
    assert comparisons.weights is None
    assert len(comparisons) == 7
    assert Comparisons.merged(comparisons).labels.tolist() == [0.75, 0.0, 0.0]
    path.write_text("first,second,label,weight\na,b,0.7,1\nb,c,0,2\nc,a,1,1\n")
    comparisons = read_answers(path).comparisons
    assert comparisons.counts.tolist() == [1.0, 2.0, 1.0]  # .7 of an answer is no answer


def test_what_is_not_linked_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "answers.csv"
    path.write_text("first,second,label,user\na,b,1,Ada\nc,d,0,Ben\nb,e,1,Ada\n")
    answers = read_answers(path)
    assert answers.option_names == ("a", "b", "e")
    assert answers.user_names == ("Ada",)
    assert answers.left_out == 1
    assert answers.comparisons.users is None


def test_a_preference_file_with_people(tmp_path: Path) -> None:
    preferences = Preferences(
        clips(0, 8), clips(1, 8), torch.ones(8, dtype=torch.float64), torch.ones(8, dtype=torch.float64),
        torch.tensor([0, 2] * 4), ("Ada", "Ben", "Cy"),
    )  # fmt: skip
    save_preferences(tmp_path / "clips.npz", preferences)
    answers = read_answers(tmp_path / "clips.npz")
    assert answers.user_names == ("Ada", "Cy")
    assert answers.comparisons.user.tolist() == [0, 1] * 4


@pytest.mark.needs_human_data
def test_the_published_comparisons(human_data: Path) -> None:
    answers = read_answers(human_data / "Privileged-Control_segment_pairs.npy")
    assert len(answers.comparisons) == 1793
    assert answers.comparisons.features is not None
    assert answers.comparisons.features.shape == (answers.comparisons.num_options, 6)


def test_what_is_refused(tmp_path: Path) -> None:
    def preferences(label: float, obs: list[int] | None = None) -> Preferences:
        return Preferences.from_labels(steps([0, 1], [0, 0]), steps(obs or [1, 2], [0, 0]),
                                       torch.tensor([0.5, label]))  # fmt: skip

    with pytest.raises(ValueError, match=r"labels\[1\] is 1.25; answers lie in 0 to 1"):
        from_preferences(preferences(1.25))
    with pytest.raises(ValueError, match="of a segment with itself"):
        from_preferences(preferences(1.0, [0, 1]))
    with pytest.raises(ValueError, match="there is no comparison"):
        from_preferences(preferences(1.0)[:0])
    same = torch.ones(2, 1, 3, dtype=torch.float64)
    alike = Preferences.from_labels(steps([0, 1], [0, 0], same), steps([1, 2], [0, 0], same),
                                    torch.tensor([0.0, 1.0]))  # fmt: skip
    with pytest.raises(ValueError, match="no feature differs"):
        from_preferences(alike, "features")
    path = tmp_path / "answers.csv"
    path.write_text("first,second,label\na,b,1\n")
    with pytest.raises(ValueError, match="have none but their names"):
        read_answers(path, "features")
    path.write_text("first,second,label,weight\na,b,1,5000000\n")
    with pytest.raises(ValueError, match="stand for 5e\\+06 answers"):
        read_answers(path)
    with pytest.raises(FileNotFoundError):
        read_answers(tmp_path / "nothing.npz")
