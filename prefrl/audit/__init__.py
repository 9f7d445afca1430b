"""Audits: looking at what was answered, trained or chosen, and saying what it shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefrl.run import flags

AUDITS: dict[str, str] = {
    "preferences": "prefrl.audit.preferences:AuditPreferences",
    "alignment": "prefrl.audit.policies.alignment:AuditAlignment",
    "coherence": "prefrl.audit.policies.coherence:AuditCoherence",
    "curated_loop": "prefrl.audit.policies.curated_loop:AuditCuratedLoop",
    "drift": "prefrl.audit.policies.drift:AuditDrift",
    "reward_loops": "prefrl.audit.policies.reward_loops:AuditRewardLoops",
}
"""What ``prefrl audit KIND`` can look at: the class of each kind, a dataclass of flags with a ``run``."""


def parse_audit(arguments: Sequence[str]) -> Any:
    """Return the audit that arguments name; with --help in place of its name, tyro prints all and exits.

    Raises:
        ValueError: if there is no such audit, or none is named.
    """
    about = "Look at what was answered or trained, and say what it shows."
    return flags.parse_kind("audit", "audit", AUDITS, arguments, about)
