"""End a stage on SIGTERM, and when the workflow that started it is gone.

Either way its temporary files are deleted, and the last line that it prints is the reason.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType

from grace.system.cancelled import LOG, mark_cancelled
from grace.system.exit_codes import reason


def end_on_request() -> None:
    """From now on SIGTERM ends this process like an exception: temporary files are deleted, and the reason is printed."""
    signal.signal(signal.SIGTERM, _end)


def end_with_workflow() -> None:
    """From now on end this process when the workflow that started it is gone, so that it cannot collide with a rerun.

    The rules set GRACE_WORKFLOW to Snakemake's process id; a stage run by hand is not affected. On a cluster it is the
    Snakemake inside the job, so the submitting process may exit without ending its jobs. Snakemake may be gone before this
    process has got here; in a container, though, a number that is not found may be that of a process outside.
    """
    workflow = os.environ.get("GRACE_WORKFLOW", "")
    in_container = any(name in os.environ for name in ("APPTAINER_CONTAINER", "SINGULARITY_CONTAINER"))
    if workflow.isdigit() and (_is_alive(int(workflow)) or not in_container):
        threading.Thread(target=_watch, args=(int(workflow),), daemon=True).start()


def _watch(workflow: int) -> None:
    while _is_alive(workflow):
        time.sleep(0.5)
    print("the workflow that started this stage is gone", file=sys.stderr, flush=True)
    # The stage was not cancelled: a scheduler may have killed the whole job for its memory.
    os.environ.pop(LOG, None)
    os.kill(os.getpid(), signal.SIGTERM)


def _is_alive(process: int) -> bool:
    """Whether a process runs; a zombie (state Z) does not."""
    try:
        status = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def _end(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second SIGTERM would interrupt the cleanup
    mark_cancelled()
    print(f"ended: {reason(128 + number)}", file=sys.stderr, flush=True)
    sys.exit(128 + number)
