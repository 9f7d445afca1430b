"""What ``prefrl label`` does: names of its commands and where they are, loaded when asked for."""

from __future__ import annotations

LABEL_COMMANDS = {
    "make": "prefrl.run.labelling.make:MakeCommand",
    "serve": "prefrl.label.serve:ServeCommand",
    "status": "prefrl.label.status:StatusCommand",
    "export": "prefrl.label.export:ExportCommand",
}
"""Each command's class, a dataclass of flags with a ``run``."""
