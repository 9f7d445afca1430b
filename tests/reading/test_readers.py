"""Readers of single kinds of file, where the mutations would not come by."""

import gzip
from pathlib import Path

import pytest

from prefrl.data.files.matrices import read_matrix
from prefrl.run.environments import parse_env_args
from prefrl.run.logger import read_progress
from prefrl.run.sweep.results import read_result


def test_matrices_are_text_of_a_square(tmp_path: Path) -> None:
    path = tmp_path / "matrix.csv"
    path.write_text("# rock, paper\n0, 0.4\n-0.4,0\n")
    assert read_matrix(path).tolist() == [[0.0, 0.4], [-0.4, 0.0]]
    for text, message in (("0,1\n", "1 rows of [2] numbers"), ("0,1\n1\n", "2 rows of [1, 2]"), ("", ""),
                          ("0,x\n-1,0\n", "could not convert"), ("0,nan\nnan,0\n", "")):  # fmt: skip
        path.write_text(text)
        with pytest.raises(ValueError, match=r"matrix\.csv: [^\n]*") as caught:
            read_matrix(path)
        assert message in str(caught.value)
    packed = tmp_path / "matrix.csv.gz"
    packed.write_bytes(gzip.compress(b"0,0.4\n-0.4,0\n"))
    with pytest.raises(ValueError, match=r"matrix\.csv\.gz is damaged or no matrix file"):
        read_matrix(packed)


def test_rows_of_progress_are_as_long_as_the_header(tmp_path: Path) -> None:
    path = tmp_path / "progress.csv"
    path.write_text("a,b\n1,2\n3,")
    assert read_progress(path) == [{"a": "1", "b": "2"}]  # a kill cut the last one short
    for text in ("a,b\n1\n", "a,b\n1,2,3\n"):
        path.write_text(text)
        with pytest.raises(
            ValueError, match=r"progress\.csv is damaged: a row has another number of entries"
        ):
            read_progress(path)
    path.write_text("")
    assert read_progress(path) == []


@pytest.mark.parametrize(
    "text", ['{"a": 1' + "0" * 400 + "}", '{"a": NaN}', '{"a": {"b": -Infinity}}', "{", "[]"]
)
def test_results_are_finite_numbers(tmp_path: Path, text: str) -> None:
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(ValueError, match=r"\A[^\n]*result\.json[^\n]*\Z"):
        read_result(tmp_path / "result.json")


def test_arguments_that_are_nested_too_deeply_are_texts() -> None:
    for text in ("[" * 100_000, "(" * 100_000, "{1:" * 10_000):
        assert parse_env_args((f"x={text}",)) == {"x": text}
