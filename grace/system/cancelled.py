"""Prevent a run from restarting a stage that was cancelled.

Snakemake restarts every failed job up to `--retries` times, even one that the user cancelled. So a stage that receives
SIGTERM leaves a mark, and a restarted stage that finds its mark refuses to run. Snakemake deletes a job's log and outputs
before a restart, so the mark is a file beside the log, `LOG.cancelled` (the rules set GRACE_LOG to the log). The first attempt
of a job (GRACE_ATTEMPT) deletes the mark of an earlier run. A stage run by hand neither leaves nor looks for a mark.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from grace.system.errors import GraceError

LOG, ATTEMPT = "GRACE_LOG", "GRACE_ATTEMPT"


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
    if mark is None or not mark.exists():
        return
    if os.environ.get(ATTEMPT, "1") == "1":
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            mark.unlink(missing_ok=True)
    else:
        raise GraceError("this stage was cancelled and is not restarted in this run; start a new run to resume")


def _mark() -> Path | None:
    """The path of the mark of this process's stage; None outside the workflow."""
    log = os.environ.get(LOG)
    return Path(f"{log}.cancelled") if log else None
