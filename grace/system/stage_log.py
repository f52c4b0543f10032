"""Say how a stage ended in the last line of its log.

A stage that fails prints its reason (`error: ...`, or a traceback). A stage that is terminated prints `ended: SIGTERM ...`; a
training first saves the state of its last step and prints `interrupted: ...`. For a stage that is killed, or that cannot
write because the disk is full, the workflow writes the line with `python -m grace ended`.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from grace.system.exit_codes import AGAIN, BUG, KEYBOARD, UNWRITTEN, USER_ERROR, reason

FULL = 1 << 20
"""Free bytes below which a disk counts as full."""
GAVE_REASON = (USER_ERROR, AGAIN, KEYBOARD)
"""Exit codes of a stage that has itself written its reason as the last line."""
MAY_LACK_REASON = (BUG, UNWRITTEN)
"""Exit codes of a stage whose traceback is missing from the log if the disk is full."""


def write_end(code: int, log: Path) -> None:
    """Append the reason why a stage ended with `code` to its log, unless the stage has written it.

    If the log cannot be written, the line goes to standard error.
    """
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
    """The last non-blank line of a log; empty if there is none."""
    path = Path(log)
    if not path.is_file():
        return ""
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else ""
