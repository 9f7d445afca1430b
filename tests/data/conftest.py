"""What several tests of data share."""

import io
import json
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from prefrl.data import Preferences, Segments, load_preferences, save_preferences


def random_segments(
    count: int,
    longest: int,
    *,
    seed: int,
    obs_shape: tuple[int, ...] = (),
    obs_dtype: torch.dtype = torch.int64,
    action_shape: tuple[int, ...] = (),
    action_dtype: torch.dtype = torch.int64,
    num_features: int | None = 2,
) -> Segments:
    """Canonically padded segments of numbers from 0 to 99 (floats: with a fraction)."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int, dtype: torch.dtype) -> Tensor:
        numbers = torch.rand(shape, generator=generator, dtype=torch.float64) * 100
        return (numbers > 50) if dtype == torch.bool else numbers.to(dtype)

    lengths = torch.randint(1, longest + 1, (count,), generator=generator)
    obs = draw(count, longest + 1, *obs_shape, dtype=obs_dtype)
    actions = draw(count, longest, *action_shape, dtype=action_dtype)
    features = None if num_features is None else draw(count, longest, num_features, dtype=torch.float64)
    for i in range(count):
        end = int(lengths[i])
        obs[i, end + 1 :] = obs[i, end].clone()
        actions[i, end:] = 0
        if features is not None:
            features[i, end:] = 0
    return Segments(obs, actions, lengths, lengths % 2 == 0, features)


def random_preferences(
    count: int = 4, longest: int = 3, second_longest: int = 2, *, offsets: bool = False, **kind: Any
) -> Preferences:
    return Preferences(
        random_segments(count, longest, seed=1, **kind),
        random_segments(count, second_longest, seed=2, **kind),
        torch.linspace(-0.5, 1.5, count, dtype=torch.float64),
        torch.arange(count, dtype=torch.float64) / 3,
        torch.arange(count) % 2,
        ("ann", "b√b"),
        {"environment": "prefrl/Delivery-v0", "nested": {"list": [1, 2.5, None, True, "é\n"]}},
        torch.linspace(-2.0, 1.0, count, dtype=torch.float64) if offsets else None,
    )


@pytest.fixture(scope="session")
def make_preferences() -> Callable[..., Preferences]:
    """Makes valid comparisons of any number, lengths and kinds of arrays."""
    return random_preferences


@pytest.fixture(scope="session")
def session_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where generated files are written, one over the other."""
    return tmp_path_factory.mktemp("generated") / "generated.npz"


@dataclass(frozen=True)
class Archive:
    """A preference file taken apart, to be put together wrongly."""

    members: dict[str, bytes] = field(repr=False)
    """What stands in the zip, by name without ``.npy``."""

    @classmethod
    def read(cls, path: Path) -> "Archive":
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            return cls({info.filename.removesuffix(".npy"): archive.read(info) for info in infos})

    def zip(self, compression: int = zipfile.ZIP_STORED) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", compression) as archive:
            for name, content in self.members.items():
                archive.writestr(f"{name}.npy", content)
        return buffer.getvalue()

    def array(self, name: str) -> Any:
        return np.load(io.BytesIO(self.members[name]))

    @property
    def arrays(self) -> list[str]:
        return sorted(self.members.keys() - {"schema"})

    @property
    def schema(self) -> dict[str, Any]:
        schema = json.loads(self.array("schema").tobytes())
        assert isinstance(schema, dict)
        return schema

    def with_member(self, name: str, content: bytes) -> "Archive":
        return Archive({**self.members, name: content})

    def without(self, *names: str) -> "Archive":
        return Archive({name: content for name, content in self.members.items() if name not in names})

    def with_schema(self, schema: Any) -> "Archive":
        text = schema if isinstance(schema, bytes) else json.dumps(schema).encode()
        return self.with_member("schema", self.npy(np.frombuffer(text, np.uint8)))

    def with_array(self, name: str, array: Any) -> "Archive":
        """Replace an array, and tell the schema."""
        return self.with_member(name, self.npy(array)).claiming(name, array.dtype.name, array.shape)

    def claiming(self, name: str, dtype: str, shape: tuple[int, ...]) -> "Archive":
        """Change what the schema says of an array."""
        schema = self.schema
        schema["arrays"][name] = {"dtype": dtype, "shape": list(shape)}
        return self.with_schema(schema)

    @staticmethod
    def npy(array: Any) -> bytes:
        buffer = io.BytesIO()
        np.save(buffer, array)
        return buffer.getvalue()

    @staticmethod
    def header(descr: str, shape: str, *, fortran: str = "False", version: int = 1) -> bytes:
        """A .npy header that may say anything."""
        text = f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n".encode()
        size = struct.pack("<H" if version == 1 else "<I", len(text))
        return b"\x93NUMPY" + bytes([version, 0]) + size + text


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """A valid file of ``make_preferences()``."""
    path = tmp_path_factory.mktemp("valid") / "valid.npz"
    save_preferences(path, random_preferences())
    return Archive.read(path)


@pytest.fixture(scope="session")
def refused(session_path: Path) -> Callable[[bytes], str]:
    """Writes bytes, sees them refused in one line that names the file, and returns the rest of that line."""

    def refuse(content: bytes) -> str:
        session_path.write_bytes(content)
        with pytest.raises(ValueError, match=r"\A[^\n]*\Z") as caught:
            load_preferences(session_path)
        text = str(caught.value)
        assert text.startswith(str(session_path))
        return text.removeprefix(str(session_path)).removeprefix(": ")

    return refuse
