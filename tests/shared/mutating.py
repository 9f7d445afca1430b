"""Files changed at random, in the ways that damage and mischief have; sizes in them stay small."""

import io
import json
import random
import re
import zipfile
from collections.abc import Callable
from typing import Any

import torch

NONSENSE: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 3, 100_003, 10**7, 10**30, 0.5, -0.0, 1e300, float("nan"), float("inf"), "",
    "x", "é\n" * 40, "9" * 600, [], [None], [[[[]]]], [1, 2, 3], {}, {"n": 1}, "[" * 200,
)  # fmt: skip
"""What stands in the place of a value."""

NUMBERS = (b"0", b"1", b"2", b"7", b"-3", b"255", b"100003", b"9999999", b"1.5", b"True", b"9" * 25)
"""What stands in the place of a number in a header."""


def flipped(content: bytes, rng: random.Random) -> bytes:
    """Change a few bytes, leave some out, or put some in twice."""
    changed = bytearray(content)
    choice = rng.randrange(5)
    start = rng.randrange(len(content) + 1)
    end = min(len(content), start + rng.choice([1, 2, 8, 100]))
    if choice == 0:
        return bytes(changed[:start])
    if choice == 1:
        return bytes(changed[:start] + changed[end:])
    if choice == 2:
        return bytes(changed[:end] + changed[start:])
    for _ in range(rng.choice([1, 1, 2, 5])):
        place = rng.randrange(max(1, len(changed)))
        if choice == 3 and changed:
            changed[place] ^= 1 << rng.randrange(8)
        elif changed:
            changed[place] = rng.choice([0, 255, 9, 10, 34, 44, 91, 123, rng.randrange(256)])
    return bytes(changed)


def renumbered(content: bytes, rng: random.Random) -> bytes:
    """Put another number in the place of one among the first bytes, where headers are."""
    found = list(re.finditer(rb"\d+(\.\d+)?", content[:4096]))
    if not found:
        return flipped(content, rng)
    place = rng.choice(found)
    return content[: place.start()] + rng.choice(NUMBERS) + content[place.end() :]


def other_value(value: Any, rng: random.Random) -> Any:
    """Return nested dicts and lists with one entry replaced, left out or renamed."""
    places: list[tuple[Any, Any]] = []

    def walk(entry: Any) -> Any:
        copied: Any = entry
        if isinstance(entry, dict):
            copied = {key: walk(part) for key, part in entry.items()}
            places.extend((copied, key) for key in copied)
        elif isinstance(entry, list):
            copied = [walk(part) for part in entry]
            places.extend((copied, index) for index in range(len(copied)))
        return copied

    whole = walk(value)
    if not places:
        return rng.choice(NONSENSE)
    holder, key = rng.choice(places)
    choice = rng.randrange(10)
    if choice == 0:
        del holder[key]
    elif choice == 1 and isinstance(holder, dict):
        holder[rng.choice(["", "other", "n"])] = holder.pop(key)
    elif isinstance(holder[key], torch.Tensor):
        holder[key] = other_tensor(holder[key], rng)
    elif isinstance(holder[key], str) and holder[key][:1] in ("{", "[") and choice < 8:  # JSON in a string
        holder[key] = other_json(holder[key].encode(), rng).decode("utf-8", "replace")
    else:
        holder[key] = rng.choice(NONSENSE)
    return whole


def other_tensor(value: torch.Tensor, rng: random.Random) -> Any:
    choice = rng.randrange(6)
    if choice == 0:
        return value.flatten()[: rng.randrange(4)]
    if choice == 1:
        return value.to(rng.choice([torch.float64, torch.int64, torch.uint8, torch.bool]))
    if choice == 2:
        return value[None]
    if choice == 3 and value.is_floating_point():
        return torch.full_like(value, rng.choice([float("nan"), float("inf"), 0.0, -1.0]))
    if choice == 4:
        return torch.cat([value.flatten(), value.flatten()])
    return rng.choice(NONSENSE)


def other_json(content: bytes, rng: random.Random) -> bytes:
    """Replace a value of a JSON document, or damage its text."""
    if rng.random() < 0.3:
        return flipped(content, rng)
    return json.dumps(other_value(json.loads(content), rng)).encode()


def other_tensors(content: bytes, rng: random.Random) -> bytes:
    """Replace something in a file of tensors, or damage its bytes; its checksums are right or wrong."""
    choice = rng.randrange(4)
    if choice == 0:
        return flipped(content, rng)
    if choice == 1:
        return rezipped(content, rng)
    buffer = io.BytesIO()
    torch.save(other_value(torch.load(io.BytesIO(content), weights_only=True), rng), buffer)
    return buffer.getvalue()


def rezipped(content: bytes, rng: random.Random) -> bytes:
    """Change an entry of a zip, whose checksums are right again; or its name, its number, its compression."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = [(info.filename, archive.read(info)) for info in archive.infolist()]
    place = rng.randrange(len(entries))
    name, entry = entries[place]
    choice = rng.randrange(10)
    if choice == 0:
        del entries[place]
    elif choice == 1:
        entries[place] = (rng.choice(["", "x.npy", "../" + name, "é" * 50, name + ".npy"]), entry)
    elif choice == 2 and name != "":
        entries.append((rng.choice(["more.npy", "more"]), entry))
    elif choice == 3:
        entries[place] = (name, rng.choice(entries)[1])
    elif choice < 7:
        entries[place] = (name, renumbered(entry, rng))
    else:
        entries[place] = (name, flipped(entry, rng))
    buffer = io.BytesIO()
    method = rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for named, written in entries:
            archive.writestr(named or "empty", written)
    return buffer.getvalue()


def other_zip(content: bytes, rng: random.Random) -> bytes:
    return rng.choice([flipped, rezipped, rezipped, rezipped])(content, rng)


def other_npy(content: bytes, rng: random.Random) -> bytes:
    return rng.choice([flipped, renumbered])(content, rng)


def other_table(content: bytes, rng: random.Random) -> bytes:
    """Replace an entry of a table, or damage its text."""
    if rng.random() < 0.5:
        return flipped(content, rng)
    rows = [line.split(b",") for line in content.split(b"\n")]
    row = rng.choice(rows)
    row[rng.randrange(len(row))] = rng.choice(ENTRIES)
    return b"\n".join(b",".join(row) for row in rows)


ENTRIES = (b"", b"nan", b"-inf", b"1e999", b"x", b'"', b"\x00", b"\xff\xfe", b"9" * 500, b"0", b"-7")
"""What stands in the place of an entry of a table."""

Mutate = Callable[[bytes, random.Random], bytes]
