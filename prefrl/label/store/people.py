"""Who may answer: names, links that are used once, and cookies; only hashes of secrets are kept."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import sqlite3

from prefrl.label.records import MOST_NAME, Annotator

from .posting import check_text

SECRET_BYTES = 16
"""128 bits."""

MOST_SECRET = 200
"""Longest text that is looked up as a secret."""


def hashed(secret: str) -> bytes:
    """Return what is kept of a secret of 128 random bits: nobody can guess it, so one round is enough."""
    return hashlib.sha256(secret.encode("utf-8", "replace")).digest()


def add_annotator(connection: sqlite3.Connection, name: str, now: int) -> Annotator:
    """Return the person of a name, new or known.

    Raises:
        ValueError: if it is no name.
    """
    name = check_text("the name of an annotator", name.strip() if isinstance(name, str) else name, MOST_NAME)
    connection.execute("INSERT INTO annotator (name, created_ns) VALUES (?, ?) ON CONFLICT (name) DO NOTHING",
                       (name, now))  # fmt: skip
    return Annotator(*connection.execute("SELECT id, name FROM annotator WHERE name = ?", (name,)).fetchone())


def check_annotator(connection: sqlite3.Connection, annotator: int) -> None:
    """Raise LookupError if there is no such person."""
    known = type(annotator) is int and 0 < annotator < 1 << 63
    if not known or not connection.execute("SELECT 1 FROM annotator WHERE id = ?", (annotator,)).fetchone():
        raise LookupError(f"there is no annotator {annotator!r}")


def new_link(connection: sqlite3.Connection, annotator: int, now: int) -> str:
    """Return a fresh secret for a link that can be used once.

    Raises:
        LookupError: if there is no such person.
    """
    check_annotator(connection, annotator)
    token = secrets.token_urlsafe(SECRET_BYTES)
    connection.execute("INSERT INTO link (annotator, token_hash, created_ns) VALUES (?, ?, ?)",
                       (annotator, hashed(token), now))  # fmt: skip
    return token


def exchange(connection: sqlite3.Connection, token: str, now: int) -> str | None:
    """Return a fresh secret for a cookie in exchange for a link's; None if it is unknown, or used."""
    row = _owner(connection, "SELECT id, annotator, token_hash FROM link WHERE token_hash = ? "
                             "AND used_ns IS NULL",
                 token)  # fmt: skip
    if row is None:
        return None
    connection.execute("UPDATE link SET used_ns = ? WHERE id = ?", (now, row[0]))
    cookie = secrets.token_urlsafe(SECRET_BYTES)
    connection.execute("INSERT INTO cookie (annotator, secret_hash, created_ns) VALUES (?, ?, ?)",
                       (row[1], hashed(cookie), now))  # fmt: skip
    return cookie


def annotator_of(connection: sqlite3.Connection, cookie: str) -> Annotator | None:
    """Return whose cookie it is; None: nobody's."""
    row = _owner(connection, "SELECT id, annotator, secret_hash FROM cookie WHERE secret_hash = ?", cookie)
    if row is None:
        return None
    return Annotator(*connection.execute("SELECT id, name FROM annotator WHERE id = ?", row[1:2]).fetchone())


def _owner(connection: sqlite3.Connection, query: str, secret: str) -> tuple[int, int] | None:
    """Return number and annotator of the row with a secret's hash."""
    if not isinstance(secret, str) or len(secret) > MOST_SECRET:
        return None
    found = hashed(secret)
    row = connection.execute(query, (found,)).fetchone()
    # The index compares hashes, whose beginnings say nothing of the secret; this takes equally long always.
    return (row[0], row[1]) if row is not None and hmac.compare_digest(row[2], found) else None
