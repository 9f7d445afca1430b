"""Files of tensors: no instruction but those that are needed, no number that the file does not hold."""

import io
import subprocess
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prefrl.data.files.tensor_file import read_tensor_file, write_tensor_file


def changed(path: Path, change: Callable[[str, bytes], bytes], method: int = zipfile.ZIP_STORED) -> None:
    """Write the file's entries again, changed, with checksums that are right."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, change(name, content))


def refused(path: Path) -> str:
    with pytest.raises(ValueError, match=r"\A[^\n]{1,499}\Z") as caught:
        read_tensor_file(path, "thing")
    text = str(caught.value)
    assert text.startswith(f"{path} is damaged or no thing of prefrl (")
    return text


def test_what_is_written_is_read(tmp_path: Path) -> None:
    names = ("bool", "uint8", "int8", "int16", "int32", "int64", "uint16", "uint32", "uint64", "float16",
             "bfloat16", "float32", "float64", "complex64")  # fmt: skip
    kinds = [getattr(torch, name) for name in names]
    tensors = {str(kind): torch.arange(6).reshape(2, 3).to(kind) for kind in kinds}
    content = {
        "tensors": tensors,
        "empty": [torch.zeros(0), torch.zeros(3, 0), torch.tensor(2.5)],
        "order": torch.arange(6.0).reshape(2, 3).t(),
        "plain": [None, True, 3, -(2**70), 2.5, float("inf"), "é", [], {}, {1: "a"}],
        "numpy": np.arange(3),
        "named": OrderedDict(a=1),
    }
    write_tensor_file(tmp_path / "file", content)
    found = read_tensor_file(tmp_path / "file", "thing")
    for name, tensor in tensors.items():
        assert found["tensors"][name].dtype is tensor.dtype
        assert torch.equal(found["tensors"][name], tensor)
    assert [entry.shape for entry in found["empty"]] == [(0,), (3, 0), ()]
    assert torch.equal(found["order"], content["order"])  # type: ignore[arg-type]
    assert found["plain"] == content["plain"]
    assert found["numpy"].tolist() == [0, 1, 2]
    assert found["named"] == {"a": 1}


def test_what_is_read_is_its_own(tmp_path: Path) -> None:
    """Not the file's: it may be replaced, or cut short, while the tensors are in use."""
    write_tensor_file(tmp_path / "file", {"w": torch.ones(50_000)})
    found = read_tensor_file(tmp_path / "file", "thing")["w"]
    (tmp_path / "file").write_bytes(b"")
    found += 1.0
    assert bool((found == 2.0).all())


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="it is Linux that says the peak")
@pytest.mark.parametrize(("filled", "reading"), [(16, 16), (12, 12)], ids=["full", "partly"])
def test_a_file_takes_no_copy_to_write_and_one_to_read(tmp_path: Path, filled: int, reading: int) -> None:
    """Of 64 MiB, or of the 48 MiB that are filled: by the peaks of a process."""
    program = f"""
import sys
from pathlib import Path
import numpy as np, torch
from prefrl.data.files.tensor_file import read_tensor_file, write_tensor_file
def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
values, array = torch.ones(16, 2**19), np.ones((16, 2**19), np.float32)
write_tensor_file("small", [torch.ones(9)]), read_tensor_file("small", "thing")
before = peak()
write_tensor_file("file", [values[:{filled}], array[:{filled}]])
written = peak()
found = read_tensor_file("file", "thing")
print(written - before, peak() - written)
"""
    told = subprocess.run([sys.executable, "-c", program], check=True, text=True, capture_output=True,
                          cwd=tmp_path)  # fmt: skip
    written, read = (float(number) / (4 * reading) for number in told.stdout.split())
    assert written < 0.2
    assert 0.9 < read < 1.2
    assert (tmp_path / "file").stat().st_size < (4 * filled + 1) * 2**20


def test_parts_of_one_tensor_are_written_each_with_its_own(tmp_path: Path) -> None:
    whole, array = torch.arange(12.0).view(3, 4), np.arange(12).reshape(3, 4)
    content = [whole[1:], whole[1], whole[:, 1], whole.t(), whole[3:], whole[0, 0], whole, array[:, ::-1],
               array[1:, 2], np.zeros(()), torch.zeros(2, 1)[:, :0]]  # fmt: skip
    write_tensor_file(tmp_path / "file", content)
    for found, expected in zip(read_tensor_file(tmp_path / "file", "thing"), content, strict=True):
        assert torch.equal(
            found, torch.as_tensor(expected.copy() if isinstance(expected, np.ndarray) else expected)
        )
        assert found.untyped_storage().nbytes() == found.nbytes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"w": torch.zeros(1).expand(100_000)}, "claim more bytes than it has"),
        ([torch.zeros(1000)] * 100, "claim more bytes than it has"),
        ({"w": torch.nn.Parameter(torch.zeros(2))}, "it refers to torch._utils _rebuild_parameter"),
        ({"w": torch.float32}, "it refers to torch float32"),
        ({"w": torch.zeros(2).to_sparse()}, "it refers to torch._utils _rebuild_sparse_tensor"),
        ({"w": torch.zeros(2, device="meta")}, "it refers to torch._utils _rebuild_meta_tensor_no_storage"),
        ({"w": {1, 2}}, "it holds the instruction EMPTY_SET|it refers to"),
        ({"w": torch.zeros(3).untyped_storage()}, "it holds a (Unt|T)ypedStorage"),
        ({"w": np.zeros(3)}, "it refers to numpy"),
        ({"w": Path("x")}, "it refers to"),
    ],
)
def test_what_is_not_written_is_not_read(tmp_path: Path, content: Any, message: str) -> None:
    torch.save(content, tmp_path / "file")
    with pytest.raises(ValueError, match=message):
        read_tensor_file(tmp_path / "file", "thing")
    refused(tmp_path / "file")


def test_few_entries_stand_for_few(tmp_path: Path) -> None:
    """Lists that hold one another twice: as many entries, walked through, as there are atoms in a grain."""
    nested: Any = [0]
    for _ in range(60):
        nested = [nested, nested]
    torch.save(nested, tmp_path / "file")
    assert "more entries than bytes" in refused(tmp_path / "file")


def test_a_tensor_has_no_more_numbers_than_its_entry(tmp_path: Path) -> None:
    write_tensor_file(tmp_path / "file", {"w": torch.ones(300), "other": torch.ones(5000)})
    changed(tmp_path / "file", lambda name, content: content[:40] if name.endswith("/data/0") else content)
    assert "another number of bytes than its entry" in refused(tmp_path / "file")


def test_compressed_entries_are_refused(tmp_path: Path) -> None:
    write_tensor_file(tmp_path / "file", {"w": torch.zeros(100_000)})
    changed(tmp_path / "file", lambda _, content: content, zipfile.ZIP_DEFLATED)
    assert (tmp_path / "file").stat().st_size < 10_000
    assert "has compression method 8; allowed are 0 (none)" in refused(tmp_path / "file")


def test_files_of_the_older_kind_are_refused(tmp_path: Path) -> None:
    old, new = io.BytesIO(), io.BytesIO()
    torch.save({"w": torch.zeros(3)}, old, _use_new_zipfile_serialization=False)
    torch.save({"w": torch.zeros(3)}, new)
    (tmp_path / "file").write_bytes(old.getvalue())
    assert "File is not a zip file" in refused(tmp_path / "file")
    (tmp_path / "file").write_bytes(old.getvalue() + new.getvalue())
    assert "it does not begin as a zip" in refused(tmp_path / "file")
    with zipfile.ZipFile(tmp_path / "file", "w") as archive:
        archive.writestr("other", b"")
    assert "it holds no data.pkl" in refused(tmp_path / "file")


@pytest.mark.parametrize("tensor", [
    torch.arange(8.0).as_strided((8, 1), (1, 8)), torch.arange(6.0).view(2, 3).T,
    torch.arange(24.0).view(2, 3, 4).permute(2, 0, 1), torch.arange(8.0).view(8, 1),
], ids=lambda tensor: f"{tuple(tensor.shape)} {tensor.stride()}")  # fmt: skip
def test_numbers_lie_as_they_lay(tensor: torch.Tensor, tmp_path: Path) -> None:
    """A product of what was read rounds as one of what was written, also where an axis has one entry."""
    write_tensor_file(tmp_path / "file.pt", {"a": tensor, "b": tensor.numpy()})
    for read in read_tensor_file(tmp_path / "file.pt", "file").values():
        assert torch.equal(read, tensor)
        assert read.stride() == tensor.stride()
