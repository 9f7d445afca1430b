"""Tables of comparisons: what is read, and what is refused in which words."""

from pathlib import Path

import pytest

from prefrl.data.files.comparison_tables import load_comparison_table


def written(folder: Path, text: str) -> Path:
    path = folder / "answers.csv"
    path.write_text(text, "utf-8")
    return path


def test_columns_come_in_any_order_and_others_are_left_alone(tmp_path: Path) -> None:
    text = "when,label,second,user,first,weight\nmay,1,tea,Ada,milk,2\n\njune,0.5, milk ,Ben,water,1\n"
    table = load_comparison_table(written(tmp_path, text))
    assert table.option_names == ("milk", "tea", "water")
    assert table.user_names == ("Ada", "Ben")
    assert table.first.tolist() == [0, 2]
    assert table.second.tolist() == [1, 0]
    assert table.labels.tolist() == [1.0, 0.5]
    assert table.weights.tolist() == [2.0, 1.0]
    assert table.users.tolist() == [0, 1]


def test_without_users_and_weights(tmp_path: Path) -> None:
    table = load_comparison_table(written(tmp_path, "first,second,label\n1,2,0\n2,3,1\n"))
    assert table.user_names == ("unknown",)
    assert table.users.tolist() == [0, 0]
    assert table.weights.tolist() == [1.0, 1.0]
    assert len(table) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is empty"),
        ("first,second,label\n", "holds no comparison"),
        ("a,b,0\n", "without 'first'"),
        ("first,second\na,b\n", "without 'label'"),
        ("first,second,label,label\na,b,0,1\n", "names the column 'label' twice"),
        ("first,second,label\na,b,0\na,b\n", "row 2 has 2 entries; the first line names 3"),
        ("first,second,label\na,b,1\na,a,1\n", "row 2 compares 'a' with itself"),
        ("first,second,label\na,b,nan\n", "row 1 has label 'nan'; it must be a finite number"),
        ("first,second,label\na,b,yes\n", "row 1 has label 'yes'"),
        ("first,second,label\na,b,1.5\n", "row 1 has label 1.5"),
        ("first,second,label\na,b,-1\n", "row 1 has label -1"),
        ("first,second,label\n,b,1\n", "row 1 has no first"),
        ("first,second,label,user\na,b,1,\n", "row 1 has no user"),
        ("first,second,label,weight\na,b,1,0\n", "row 1 has weight 0; a weight must be positive"),
        ("first,second,label,weight\na,b,1,inf\n", "row 1 has weight 'inf'"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ValueError, match=message) as refused:
        load_comparison_table(path)
    assert str(path) in str(refused.value)
