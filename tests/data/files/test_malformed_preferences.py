"""Malformed preference files: each gives one clear error, none a crash, a hang or a huge allocation."""

import io
import re
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prefrl.data import Preferences, load_preferences, save_preferences
from prefrl.reading import archives

Make = Callable[..., Preferences]
Refused = Callable[[bytes], str]


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_files_of_other_writers_are_read(archive: Any, compression: int, tmp_path: Path) -> None:
    """Column-major and big-endian arrays, headers of version 2: saved again, all are alike."""
    actions = np.asfortranarray(archive.array("first_actions"))
    weights = archive.header("'<f8'", "(4,)", version=2) + archive.array("weights").tobytes()
    other = (
        archive.with_member("first_actions", archive.npy(actions))
        .with_member("labels", archive.npy(archive.array("labels").astype(">f8")))
        .with_member("weights", weights)
    )
    assert b"'fortran_order': True" in other.members["first_actions"]
    (tmp_path / "other.npz").write_bytes(other.zip(compression))
    save_preferences(tmp_path / "again.npz", load_preferences(tmp_path / "other.npz"))
    assert type(archive).read(tmp_path / "again.npz").members == archive.members


@pytest.mark.parametrize("content", [b"hello", b"\x80\x04\x95", b"PK\x03\x04", b"PK\x05\x06" + b"\xff" * 18])
def test_what_is_no_zip(content: bytes, refused: Refused) -> None:
    assert "damaged or no preference file" in refused(content)


def test_what_is_no_preference_file(archive: Any, refused: Refused) -> None:
    empty, npy = archive.without(*archive.members), archive.npy
    assert "the file is empty" in refused(b"")
    assert "damaged or no preference file" in refused(npy(np.zeros(3)))
    assert "there is no array 'schema'" in refused(empty.zip())
    assert "there is no array 'schema'" in refused(archive.without("schema").zip())
    assert "'schema' cannot be read: it does not start with a .npy" in refused(
        empty.with_member("schema", b"{}").zip()
    )
    assert "'schema' has compression method 14" in refused(archive.zip(zipfile.ZIP_LZMA))
    for array, found in [
        (np.zeros(3), "float64 [3]"),
        (np.array(3, np.uint8), "uint8 []"),
        (np.zeros((1 << 20) + 1, np.uint8), "uint8 [1048577]"),
    ]:
        text = refused(archive.with_member("schema", npy(array)).zip())
        assert f"schema is {found}; it must be the uint8 bytes of a JSON document, at most 1048576" in text


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        (b"", "schema is no JSON document"),
        (b"{", "schema is no JSON document"),
        (b"\xff\xfe", "schema is no JSON document"),
        (b"[" * 100_000, "schema is no JSON document"),
        (b'{"format": 1, "format": 2}', "a key is there twice"),
        (b'{"format": NaN}', "NaN is no JSON number"),
        (b'{"format": 1e999}', "1e999 is out of range"),
        (b'{"version": ' + b"9" * 9_999 + b"}", "schema is no JSON document|schema.format is None"),
        ([1], r"schema.format is \[1\]; it must be 'prefrl-preferences'"),
        (None, "schema.format is None"),
        ({}, "schema.format is None"),
        ({"format": "other"}, "schema.format is 'other'"),
        ({"format": "prefrl-preferences"}, "schema.version is None; this release of prefrl reads version 1"),
    ],
)
def test_schema_that_is_none(schema: Any, message: str, archive: Any, refused: Refused) -> None:
    assert re.search(message, refused(archive.with_schema(schema).zip()))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("format", ["prefrl-preferences"], r"schema.format is \['prefrl-preferences'\]"),
        ("version", 2, "schema.version is 2; this release of prefrl reads version 1"),
        ("version", 0, "schema.version is 0"),
        ("version", True, "schema.version is True"),
        ("version", 1.0, "schema.version is 1.0"),
        ("version", "1", "schema.version is '1'"),
        ("count", 3, r"has shape \[4\], which|has shape \[4\]; schema.count is 3"),
        ("count", -1, "schema.count is -1"),
        ("count", 4.0, "schema.count is 4.0"),
        ("count", None, "schema.count is None"),
        ("annotator_names", "ann", "schema.annotator_names is 'ann'; it must be a list of strings"),
        ("annotator_names", [1, 2], r"schema.annotator_names is \[1, 2\]"),
        ("annotator_names", ["ann"], r"annotators\[1\] is 1; .* the 1 annotator_names"),
        ("metadata", [], r"schema.metadata is \[\]; it must be a JSON object"),
        ("metadata", None, "schema.metadata is None"),
        ("arrays", [], r"schema.arrays is \[\]"),
        ("arrays", {}, r"schema.arrays describes \[\]; the file holds \['annotators'"),
        ("more", 1, r"schema has the keys .*; they must be \['annotator_names'"),
    ],
)
def test_wrong_value_in_the_schema(
    key: str, value: Any, message: str, archive: Any, refused: Refused
) -> None:
    content = archive.with_schema({**archive.schema, key: value}).zip()
    assert re.search(message, refused(content))


def test_missing_key_in_the_schema(archive: Any, refused: Refused) -> None:
    for key in ("count", "arrays", "annotator_names", "metadata"):
        schema = archive.schema
        del schema[key]
        assert "schema has the keys" in refused(archive.with_schema(schema).zip())


@pytest.mark.parametrize("said", [None, [], {"dtype": "int64"}, {"dtype": "int64", "shape": [4, 5]}])
def test_schema_that_contradicts_an_array(said: Any, archive: Any, refused: Refused) -> None:
    schema = archive.schema
    schema["arrays"]["first_obs"] = said
    text = refused(archive.with_schema(schema).zip())
    assert "first_obs is {'dtype': 'int64', 'shape': [4, 4]}; schema.arrays says" in text


ARRAY_MISTAKES: list[tuple[str, Callable[[Any], Any], str]] = [
    ("first_obs", lambda x: x[:, :-1], r"first segments: obs have shape|obs have shape \(4, 3\), not \[4, 4"),
    ("first_obs", lambda x: x[:-1], r"first_obs has shape \[3, 4\]; schema.count is 4"),
    ("second_obs", lambda x: np.array(5), r"second_obs has shape \[\]; schema.count is 4"),
    ("second_obs", lambda x: x.astype("i4"), "obs of the two sides"),
    ("second_obs", lambda x: x + 0.5 + np.nan, r"obs of the two sides|obs\[0\] hold NaN"),
    ("second_obs", lambda x: x.astype("c8"), r"'second_obs' cannot be read: its dtype is '<c8'; allowed are"),
    ("second_obs", lambda x: x.astype("S3"), r"its dtype is '\|S3'; allowed"),
    ("second_obs", lambda x: x.astype("M8[s]"), r"its dtype is '<M8\[s\]'; allowed"),
    ("second_obs", lambda x: x.astype("u8"), "its dtype is '<u8'; allowed"),
    ("second_obs", lambda x: x.astype([("a", "i8")]), r"its dtype is \[\('a', '<i8'\)\]; allowed"),
    ("second_obs", lambda x: x.astype(object), r"its dtype is '\|O'; allowed"),
    ("first_obs", lambda x: x + np.arange(4), "hold something else after the segment's"),
    ("first_actions", lambda x: x + 1, "padding must be 0"),
    (
        "first_actions",
        lambda x: x[..., None][..., :0],
        r"first_actions has shape \[4, 3, 0\]; axes after the",
    ),
    ("first_lengths", lambda x: x * 0, r"first segments: lengths\[0\] is 0; lengths must lie in 1 to 3"),
    ("first_lengths", lambda x: x + 2**62, r"first segments: lengths\[0\] is 4611686018"),
    ("second_lengths", lambda x: -x, r"second segments: lengths\[0\] is -"),
    ("second_lengths", lambda x: x.astype("f8"), "lengths have dtype torch.float64; it must be torch.int64"),
    ("first_terminated", lambda x: x.astype("u1"), "terminated have dtype torch.uint8"),
    (
        "first_features",
        lambda x: x.astype("f4"),
        "features of the two sides|features have dtype torch.float32",
    ),
    ("first_features", lambda x: x * np.inf, r"features\[0\] hold NaN or infinity"),
    ("first_features", lambda x: x[..., :1], "features of the two sides of the comparisons differ"),
    ("labels", lambda x: x * np.nan, r"labels\[0\] hold NaN or infinity"),
    ("labels", lambda x: x[:, None], r"labels have shape \(4, 1\), not \[4\]"),
    ("labels", lambda x: x.astype("f2"), "labels have dtype torch.float16"),
    ("weights", lambda x: x - 0.1, r"weights\[0\] is -0.1; weights must not be negative"),
    ("weights", lambda x: x + np.inf, r"weights\[0\] hold NaN or infinity"),
    ("annotators", lambda x: x + 2, r"annotators\[0\] is 2; annotators must be places in the 2"),
    ("annotators", lambda x: x - 1, r"annotators\[0\] is -1"),
]


@pytest.mark.filterwarnings("ignore:invalid value encountered")
@pytest.mark.parametrize(("name", "change", "message"), ARRAY_MISTAKES)
def test_wrong_array(
    name: str, change: Callable[[Any], Any], message: str, archive: Any, refused: Refused
) -> None:
    content = archive.with_array(name, change(archive.array(name))).zip()
    assert re.search(message, refused(content))


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        (np.zeros(3), r"offsets has shape \[3\]; schema.count is 4"),
        (np.zeros((4, 1)), r"offsets have shape \(4, 1\), not \[4\]"),
        (np.zeros(4, np.float32), "offsets have dtype torch.float32; it must be torch.float64"),
        (np.array([0.0, 1.0, np.nan, 0.0]), r"offsets\[2\] hold NaN or infinity"),
    ],
)
def test_wrong_offsets(offsets: Any, message: str, archive: Any, refused: Refused) -> None:
    assert re.search(message, refused(archive.with_array("offsets", offsets).zip()))


RAW_HEADERS = [
    (b"", "does not start with a .npy header"),
    (b"\x93NUMPY", "does not start with a .npy header"),
    (b"\x93NUMPY\x03\x00" + bytes(40), "does not start with a .npy header of version 1 or 2"),
    (b"\x93NUMPY\x01\x00\xff\xff" + b" " * 40, "claims 65545 bytes where at most 50 can be"),
    (b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b" " * 40, "claims 4294967307 bytes"),
    (b"\x93NUMPY\x01\x00\x10\x00" + b"-" * 40, "not of the form that numpy writes"),
    (b"\x93NUMPY\x01\x00\x10\x00" + b"-" * 9, "claims 26 bytes where at most 19 can be"),
]


@pytest.mark.parametrize(("content", "message"), RAW_HEADERS)
def test_what_is_no_header(content: bytes, message: str, archive: Any, refused: Refused) -> None:
    text = refused(archive.with_member("labels", content).zip())
    assert text.startswith("the array 'labels' cannot be read: it")
    assert message in text


FORGED_HEADERS = [
    ("'<f8'", "(5,)", "False", "its header says float64 [5], 40 bytes, and 32 are there"),
    ("'<f8'", "(3,)", "False", "24 bytes, and 32 are there"),
    ("'<f4'", "(4,)", "False", "16 bytes, and 32 are there"),
    ("'<f8'", "(1000000000000,)", "False", "8000000000000 bytes, and 32 are there"),
    ("'<f8'", "(9999999999999999999, 9999999999999999999)", "False", "bytes, and 32 are there"),
    ("'<f8'", "(0, 1000000000000)", "False", "0 bytes, and 32 are there"),
    ("'<f8'", "(-4,)", "False", "not of the form"),
    ("'<f8'", "(4.0,)", "False", "not of the form"),
    ("'<f8'", "(True, 4)", "False", "not of the form"),
    ("'<f8'", "(" + "9" * 99 + ",)", "False", "not of the form"),
    ("'<f8'", "(4,)", "1", "not of the form"),
    ("'<f8'", "(" + "1, " * 33 + "4)", "False", "34 axes; at most 32"),
    ("'|O'", "(4,)", "False", "its dtype is '|O'; allowed are bool, uint8"),
    ("'<f16'", "(2,)", "False", "its dtype is '<f16'"),
    ("'=f8'", "(4,)", "False", "its dtype is '=f8'"),
    ("__import__('os').system('true')", "(4,)", "False", "its dtype is __import__"),
]


@pytest.mark.parametrize(("descr", "shape", "fortran", "message"), FORGED_HEADERS)
def test_forged_header(
    descr: str, shape: str, fortran: str, message: str, archive: Any, refused: Refused
) -> None:
    content = archive.header(descr, shape, fortran=fortran) + bytes(32)
    text = refused(archive.with_member("labels", content).zip())
    assert text.startswith("the array 'labels' cannot be read: it")
    assert message in text


def test_members_that_are_missing_unknown_or_there_twice(archive: Any, refused: Refused) -> None:
    for name in archive.arrays:
        reason = "schema.arrays describes" if "features" in name else f"the array {name!r} is missing"
        assert reason in refused(archive.without(name).zip())
    more = archive.with_member("third_obs", archive.members["labels"])
    assert "the array 'third_obs' is unknown; allowed are first_obs" in refused(more.zip())
    for double in ("labels.npy", "labels"):
        buffer = io.BytesIO(archive.zip())
        with zipfile.ZipFile(buffer, "a") as opened, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            opened.writestr(double, archive.members["labels"])
        assert "'labels' is there twice" in refused(buffer.getvalue())


def test_features_on_one_side_only(archive: Any, refused: Refused) -> None:
    schema = archive.schema
    del schema["arrays"]["first_features"]
    fewer = archive.with_schema(schema).without("first_features")
    assert "only some of the two sides" in refused(fewer.zip())


def test_truth_values_other_than_0_and_1(archive: Any, refused: Refused) -> None:
    odd = archive.members["first_terminated"][:-1] + b"\x02"
    assert "truth values other than 0 and 1" in refused(archive.with_member("first_terminated", odd).zip())


def zip_entry(content: bytes, name: bytes) -> int:
    """Return where a member's entry in the zip's directory begins."""
    directory = content.index(b"PK\x01\x02")
    entry = content.index(name, directory) - 46
    assert content[entry : entry + 4] == b"PK\x01\x02"
    return entry


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (8, b"\x01\x00", "'labels' is encrypted; it must not be"),
        (8, b"\x20\x00", "damaged or no preference file"),  # "patched data", which zipfile does not know
        (8, b"\x40\x00", "damaged or no preference file"),  # "strong encryption", likewise
        (10, b"\x01\x00", "'labels' has compression method 1; allowed are 0"),
        (16, b"\x00\x00\x00\x00", "damaged or no preference file .Bad CRC-32"),
        (20, b"\xff\xff\xff\x7f" * 2, "damaged or no preference file|expand to"),  # goes on after the file
        (24, b"\x01\x00\x00\x00", "damaged or no preference file .Bad CRC-32"),
        (42, b"\xff\xff\x00\x00", "damaged or no preference file"),  # no member there
        (46, b"lobels", "the array 'labels' is missing"),
    ],
)
def test_wrong_entry_in_the_directory_of_the_zip(
    place: int, value: bytes, message: str, archive: Any, refused: Refused
) -> None:
    content = bytearray(archive.zip())
    entry = zip_entry(content, b"labels.npy")
    content[entry + place : entry + place + len(value)] = value
    assert re.search(message, refused(bytes(content)))


def test_name_that_is_no_text(archive: Any, refused: Refused) -> None:
    content = bytearray(archive.zip())
    entry = zip_entry(content, b"labels.npy")
    content[entry + 8 : entry + 10] = b"\x00\x08"  # says that names are UTF-8
    content[entry + 46] = 0xFF
    assert "damaged or no preference file ('utf-8' codec can't decode" in refused(bytes(content))


def test_offset_beyond_all_files(archive: Any, refused: Refused) -> None:
    """A 64-bit offset, which no file can be wound to."""
    buffer = io.BytesIO(archive.without("labels").zip())
    with zipfile.ZipFile(buffer, "a") as opened:
        info = zipfile.ZipInfo("labels.npy")
        info.extra = struct.pack("<HHQ", 1, 8, 2**64 - 1)
        opened.writestr(info, archive.members["labels"])
    content = bytearray(buffer.getvalue())
    entry = zip_entry(content, b"labels.npy")
    content[entry + 42 : entry + 46] = b"\xff\xff\xff\xff"
    assert "damaged or no preference file" in refused(bytes(content))


def test_compressed_files_expand_to_a_limit(
    make_preferences: Make, archive: Any, refused: Refused, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert archives.MAX_EXPANDED_BYTES == 2**30
    monkeypatch.setattr(archives, "MAX_EXPANDED_BYTES", 10_000)
    save_preferences(tmp_path / "big.npz", make_preferences(100, obs_shape=(50,)))
    assert len(load_preferences(tmp_path / "big.npz")) == 100  # not compressed: no limit
    text = refused(type(archive).read(tmp_path / "big.npz").zip(zipfile.ZIP_DEFLATED))
    assert re.search(r"the arrays expand to \d+ bytes from a file of \d+; .* may expand to 10000", text)


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("places", [[24], [20, 24]])
def test_a_size_forged_everywhere_is_found_out(
    compression: int, places: list[int], archive: Any, refused: Refused
) -> None:
    """Header, schema and the zip's own table agree on 160 MB, and the stream ends after a few bytes."""
    header = archive.header("'|u1'", f"(4, 4, {10**7})")
    forged = archive.with_member("first_obs", header + bytes(32)).claiming(
        "first_obs", "uint8", (4, 4, 10**7)
    )
    content = bytearray(forged.zip(compression))
    for place in places:  # the size when read, and the size in the file
        struct.pack_into(
            "<I", content, zip_entry(content, b"first_obs.npy") + place, len(header) + 16 * 10**7
        )
    text = refused(bytes(content))
    assert re.search("'first_obs' cannot be read: it ends after 32 of 160000000 bytes|damaged", text)


def test_no_comparisons_of_endless_steps(
    make_preferences: Make, archive: Any, refused: Refused, tmp_path: Path
) -> None:
    """No byte of the file stands behind such an axis, and the first mask would need terabytes."""
    save_preferences(tmp_path / "none.npz", make_preferences(0))
    forged = type(archive).read(tmp_path / "none.npz")
    for name, shape in {"obs": (0, 10**15 + 1), "actions": (0, 10**15), "features": (0, 10**15, 1)}.items():
        array = forged.array(f"first_{name}")
        header = archive.header(repr(array.dtype.str), str(shape))
        forged = forged.with_member(f"first_{name}", header).claiming(
            f"first_{name}", array.dtype.name, shape
        )
    assert "first_actions has shape [0, 1000000000000000]; axes after the first" in refused(forged.zip())
