"""Tables of labels, and what may be wrong with them."""

import pytest
import torch

from prefrl.data import Segments
from prefrl.preferences import label_segments, read_label_table


def five():
    obs = torch.arange(5.0)[:, None, None].expand(5, 3, 1)
    return Segments(obs, torch.zeros(5, 2, 1), torch.full((5,), 2), torch.zeros(5, dtype=torch.bool))


def test_a_table_is_read(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("first,second,label\n0,4,1\n2,1,0.5\n\n")
    preferences = read_label_table(path, five()).validate()
    assert preferences.labels.tolist() == [1.0, 0.5]
    assert preferences.first.obs[:, 0, 0].tolist() == [0.0, 2.0]
    assert preferences.second.obs[:, 0, 0].tolist() == [4.0, 1.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "begins with ''"),
        ("a,b,c\n", "begins with 'a,b,c'; it must begin with the header first,second,label"),
        ("first,second,label\n", "holds no labels"),
        ("first,second,label\n0,5,1\n", "line 2 is of segment 5, which is missing: there are 5 segments"),
        ("first,second,label\n0,1,1\n-1,1,1\n", "line 3 is of segment -1, which is missing"),
        ("first,second,label\n0,1\n", "line 2 is '0,1'"),
        ("first,second,label\n0,one,1\n", "line 2"),
        ("first,second,label\n0,1.5,1\n", "segments are whole numbers"),
        ("first,second,label\n0,1,nan\n", "labels finite"),
    ],
)
def test_wrong_tables(tmp_path, text, message):
    path = tmp_path / "labels.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_label_table(path, five())


def test_no_table_and_lists_of_different_lengths(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no table of labels"):
        read_label_table(tmp_path / "none.csv", five())
    with pytest.raises(ValueError, match="1 first and 2 second segments, and 1 labels"):
        label_segments(five(), [0], [1, 2], [1.0])
    with pytest.raises(ValueError, match="label 1 is of segment 7, which is missing"):
        label_segments(five(), [0, 1], [1, 7], [1.0, 0.0])
