"""What goes wrong with a file: one exception, in one line, that names it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MAX_MESSAGE = 480
"""Longest message, in characters, where the path leaves room."""

_DAMAGE = (None, errno.EINVAL, errno.EOVERFLOW)
"""Numbers of OSErrors that are about what the file says: none, or an offset that points nowhere."""


@contextmanager
def reading(path: str | os.PathLike[str], kind: str, *, sentences: bool = True) -> Iterator[None]:
    """Turn whatever goes wrong while a file is read into one ValueError: parsers raise a dozen kinds.

    Args:
        path: the file.
        kind: what it should be, as in "preference file".
        sentences: whether a plain ValueError is a sentence about the file; else it is damage as all others.

    Raises:
        FileNotFoundError: if there is no such file.
        IsADirectoryError: if ``path`` is a folder.
        OSError: if the system cannot read it (PermissionError, ...).
        ValueError: for everything else, in one line that names the file.
    """
    check_file(path, kind)
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.errno not in _DAMAGE:
            raise
        if sentences and type(error) is ValueError:
            raise refusal(path, one_line(error)) from error
        raise refusal(path, f"{path} is damaged or no {kind} ({one_line(error)})") from error


@contextmanager
def taking_over(path: str | os.PathLike[str], what: str) -> Iterator[None]:
    """Turn whatever goes wrong while ``what`` is taken over from a file into a ValueError that names it."""
    try:
        yield
    except (ArithmeticError, AssertionError, AttributeError, LookupError, MemoryError, RuntimeError,
            TypeError, ValueError) as error:  # fmt: skip
        reason = one_line(error)
        problem = reason if reason.startswith(str(path)) else f"{path} holds no {what}: {reason}"
        raise refusal(path, problem) from error


def check_file(path: str | os.PathLike[str], kind: str) -> None:
    """Raise FileNotFoundError, IsADirectoryError or ValueError unless there is a regular file."""
    file = Path(path)
    if file.is_dir():
        raise IsADirectoryError(f"{file} is a folder; give the path of a {kind}")
    if not file.exists():
        raise FileNotFoundError(f"there is no {kind} {file}")
    if not file.is_file():  # a pipe would never end
        raise ValueError(f"{file} is no regular file; give the path of a {kind}")


def refusal(path: str | os.PathLike[str], text: str) -> ValueError:
    """Return a ValueError of one line that names the file, whether or not the text does."""
    place, text = str(path), " ".join(text.split())
    text = text if place in text else f"{place}: {text}"
    longest = max(MAX_MESSAGE, len(place) + 100)
    return ValueError(text if len(text) <= longest else f"{text[: longest - 4]} ...")


def one_line(error: BaseException) -> str:
    """Return an error's text in one line of moderate length."""
    text = " ".join(str(error).split())[:500]
    if isinstance(error, KeyError):
        text = f"{text} is missing"
    return text or type(error).__name__
