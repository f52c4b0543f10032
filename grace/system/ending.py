"""A stage ends when it is asked to, and when the workflow that started it is gone.

Both ways temporary files are removed, and the reason is the last line that the stage prints.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType

from grace.system.cancelled import FOLDER, mark_cancelled
from grace.system.exit_codes import reason


def end_on_request() -> None:
    """From now on SIGTERM ends this process as an exception does: temporary files go, and the reason is printed."""
    signal.signal(signal.SIGTERM, _end)


def end_with_workflow() -> None:
    """From now on this process ends when the workflow that started it is gone: a rerun must not meet it at work.

    The rules name Snakemake's process in GRACE_WORKFLOW; a stage run by hand ends with nobody. On a cluster it is the Snakemake
    inside the job, so a submitting process may go without its jobs.
    """
    workflow = os.environ.get("GRACE_WORKFLOW", "")
    if workflow.isdigit() and _is_alive(int(workflow)):
        threading.Thread(target=_watch, args=(int(workflow),), daemon=True).start()


def _watch(workflow: int) -> None:
    while _is_alive(workflow):
        time.sleep(0.5)
    print("the workflow that started this stage is gone", file=sys.stderr, flush=True)
    os.environ.pop(FOLDER, None)  # nobody cancelled the stage: a scheduler may have killed the whole job for its memory
    os.kill(os.getpid(), signal.SIGTERM)


def _is_alive(process: int) -> bool:
    """A process that has ended and that nobody has waited for yet (state Z) is not alive."""
    try:
        status = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def _end(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: a second one would interrupt the cleaning up
    mark_cancelled()
    print(f"ended: {reason(128 + number)}", file=sys.stderr, flush=True)
    sys.exit(128 + number)
