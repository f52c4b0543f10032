"""A stage that was asked to end is not started again by the same run.

Snakemake restarts every failed job up to `--retries` times, also one that the user cancelled. So a stage that receives SIGTERM
leaves a mark, and a restarted stage that finds its mark refuses to work. Snakemake deletes a job's log and outputs before a
restart, so the mark is a file beside the log, `LOG.cancelled` (the rules name the log in GRACE_LOG). The first attempt of a job
(GRACE_ATTEMPT) deletes the mark of an earlier run. A stage run by hand neither leaves a mark nor looks for one.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from grace.system.errors import GraceError

LOG, ATTEMPT = "GRACE_LOG", "GRACE_ATTEMPT"


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
    if mark is None or not mark.exists():
        return
    if os.environ.get(ATTEMPT, "1") == "1":
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            mark.unlink(missing_ok=True)
    else:
        raise GraceError("this stage was cancelled and is not started again in this run; start a new run to resume it")


def _mark() -> Path | None:
    """The mark of this process's stage; None outside the workflow."""
    log = os.environ.get(LOG)
    return Path(f"{log}.cancelled") if log else None
