"""Agents of prefrl, imported as ``prefrl.agents``: one file per algorithm."""

if not __name__.startswith("prefrl."):
    raise ImportError(f"import this package as 'prefrl.agents', not as {__name__!r}")
