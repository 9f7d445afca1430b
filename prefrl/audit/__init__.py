"""Audits: looking at what was answered, trained or chosen, and saying what it shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from prefrl.run import flags
from prefrl.run.recipes import unknown

AUDITS: dict[str, str] = {
    "preferences": "prefrl.audit.preferences:AuditPreferences",
    "alignment": "prefrl.audit.policies.alignment:AuditAlignment",
    "coherence": "prefrl.audit.policies.coherence:AuditCoherence",
    "curated_loop": "prefrl.audit.policies.curated_loop:AuditCuratedLoop",
    "drift": "prefrl.audit.policies.drift:AuditDrift",
    "reward_loops": "prefrl.audit.policies.reward_loops:AuditRewardLoops",
}
"""What ``prefrl audit KIND`` can look at: the class of each kind, a dataclass of flags with a ``run``."""


@dataclass(frozen=True)
class _Kinds:
    """Stands for every kind of audit where only the list of kinds is shown."""


def parse_audit(arguments: Sequence[str]) -> Any:
    """Return the audit that arguments name; with --help in place of its name, tyro prints all and exits.

    Raises:
        ValueError: if there is no such audit, or none is named.
    """
    kind, rest = (arguments[0], arguments[1:]) if arguments else ("", ())
    if kind.startswith("-"):
        kinds = [f"{kind}: {flags.class_summary(place)}" for kind, place in AUDITS.items()]
        about = "\n\n".join(
            ["Look at what was answered or trained, and say what it shows. KIND is one of:", *kinds]
        )
        return flags.parse(_Kinds, arguments, prog="prefrl audit", usage="prefrl audit KIND ...",
                           description=about)  # fmt: skip
    if kind not in AUDITS:
        raise ValueError(unknown("audit", kind, AUDITS) if kind else f"no audit is named; there are "
                         f"{', '.join(AUDITS)}")  # fmt: skip
    module, _, class_name = AUDITS[kind].partition(":")
    found = getattr(import_module(module), class_name)
    about = vars(found)["__doc__"].text.strip()  # without the settings: flags say what they are
    return flags.parse(found, rest, prog=f"prefrl audit {kind}", description=about)
