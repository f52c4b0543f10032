"""Prevent a run from restarting a stage that was cancelled.

Snakemake restarts every failed job up to `--retries` times, even one that the user cancelled. So a stage that receives
SIGTERM leaves a mark in the folder GRACE_CANCELLED, and a restarted stage that finds its mark refuses to run. Snakemake
deletes a job's log and outputs before a restart, so the mark cannot be kept there. `forget_cancelled` deletes all marks when
a run starts. A stage run by hand has no GRACE_CANCELLED: it neither leaves nor looks for a mark.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path

from grace.system.errors import GraceError

FOLDER = "GRACE_CANCELLED"


def mark_cancelled() -> None:
    """Mark this stage as cancelled. Safe in a signal handler: it only creates an empty file.

    Processes started by a launcher leave no mark, because the launcher also terminates them when one of them fails.
    """
    mark = _mark()
    if mark is not None and "TORCHELASTIC_RUN_ID" not in os.environ:
        with suppress(OSError):  # full disk: the stage may then be restarted, but its work is saved
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()


def refuse_if_cancelled() -> None:
    """Raise a `GraceError` if an earlier attempt of this stage was cancelled in the same run."""
    mark = _mark()
    if mark is not None and mark.exists():
        raise GraceError("this stage was cancelled and is not restarted in this run; start a new run to resume")


def forget_cancelled(folder: Path | str) -> None:
    """Delete all marks: stages cancelled in an earlier run may start in this one."""
    if os.path.isdir(folder):
        shutil.rmtree(folder)


def _mark() -> Path | None:
    """The path of this stage's mark, named after its output; None outside the workflow."""
    folder = os.environ.get(FOLDER)
    if not folder or "--output" not in sys.argv[:-1]:
        return None
    output = sys.argv[sys.argv.index("--output") + 1]
    return Path(folder) / hashlib.sha256(output.encode("utf-8", "surrogateescape")).hexdigest()
