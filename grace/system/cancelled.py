"""A stage that was asked to end is not started again by the same run.

Snakemake restarts every failed job up to `--retries` times, also one that the user cancelled. So a stage that receives SIGTERM
leaves a mark in the folder GRACE_CANCELLED, and a restarted stage that finds its mark refuses to work. Snakemake deletes a
job's log and outputs before a restart, so the mark cannot be there. `forget_cancelled` deletes all marks when a run starts.
A stage run by hand has no GRACE_CANCELLED: it neither leaves a mark nor looks for one.
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
    """Note that this stage was asked to end. Safe in a signal handler: it only makes an empty file.

    Processes that a launcher started leave no mark: the launcher ends them when one of them fails, too.
    """
    mark = _mark()
    if mark is not None and "TORCHELASTIC_RUN_ID" not in os.environ:
        with suppress(OSError):  # a full disk: then the stage may be started again, but what it was doing is saved
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()


def refuse_if_cancelled() -> None:
    """Raise a `GraceError` if an earlier attempt of this stage was asked to end in the same run."""
    mark = _mark()
    if mark is not None and mark.exists():
        raise GraceError("this stage was cancelled and is not started again in this run; start a new run to go on")


def forget_cancelled(folder: Path | str) -> None:
    """Delete all marks: what was cancelled in an earlier run may be started in this one."""
    if os.path.isdir(folder):
        shutil.rmtree(folder)


def _mark() -> Path | None:
    """The mark of this process's stage, named by its output; None outside the workflow."""
    folder = os.environ.get(FOLDER)
    if not folder or "--output" not in sys.argv[:-1]:
        return None
    output = sys.argv[sys.argv.index("--output") + 1]
    return Path(folder) / hashlib.sha256(output.encode("utf-8", "surrogateescape")).hexdigest()
