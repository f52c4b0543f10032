"""The last line of the log of a stage that failed: why it ended.

A stage that fails by itself prints its reason (`error: ...`, or a traceback); one that is asked to end prints `ended: SIGTERM ...`,
a training `interrupted: ...`, since it keeps the state of its last step first. For one that is killed, or whose disk is full,
the workflow writes the line, by `python -m grace ended`.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from grace.system.exit_codes import AGAIN, DEFECT, KEYBOARD, UNWRITTEN, USER_ERROR, reason

FULL = 1 << 20
"""Free bytes below which a disk counts as full: a stage writes more than that."""
GAVE_REASON = (USER_ERROR, AGAIN, KEYBOARD)
"""Exit codes of a stage that has written its reason as the last line itself."""
MAY_LACK_REASON = (DEFECT, UNWRITTEN)
"""Exit codes of a stage whose traceback would be in the log, if there were room."""


def write_end(code: int, log: Path) -> None:
    """Write why a stage ended with `code` as the last line of its log, unless the stage has written it."""
    if code in GAVE_REASON or last_line(log).startswith("ended: "):
        return
    free = shutil.disk_usage(log.parent).free
    said = f"ended: {reason(code)}"
    if code in MAY_LACK_REASON and free < FULL:
        said = f"ended: exit code {code}: no space left on the disk of {log.parent} ({free // 1024} KiB are free); make room"
    try:
        with open(log, "a", encoding="utf-8") as file:
            file.write(f"{said}\n")
    except OSError as error:
        print(f"{said} (and {log} cannot be written: {error.strerror})", file=sys.stderr)


def last_line(log: Path | str) -> str:
    """The last line of a log that is not blank; empty if there is none."""
    path = Path(log)
    if not path.is_file():
        return ""
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else ""
