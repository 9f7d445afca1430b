"""Audits: looking at what was answered, trained or chosen, and saying what it shows."""

AUDITS: dict[str, str] = {
    "preferences": "prefrl.audit.preferences:AuditPreferences",
}
"""What ``prefrl audit KIND`` can look at: the class of each kind, a dataclass of flags with a ``run``."""
