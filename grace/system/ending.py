"""Say how a stage ended in the last line of its log.

A stage that fails prints its reason (`error: ...`, or a traceback). A stage that is terminated prints `ended: SIGTERM ...`; a
training first saves the state of its last step and prints `interrupted: ...`. For a stage that is killed, the workflow writes
the line with `python -m grace ended`.
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

WHY = {
    "SIGKILL": "killed from outside, or by the system because memory ran out",
    "SIGTERM": "terminated from outside: cancelled, out of time, or the workflow was stopped",
    "SIGBUS": "a memory-mapped file was truncated, or the disk is full",
    "SIGSEGV": "a library crashed",
    "SIGABRT": "a library aborted, often because memory ran out",
    "SIGXFSZ": "a file grew beyond the limit of this process (ulimit -f)",
}


def reason(code: int) -> str:
    """Explain an exit code; a shell adds 128 to the number of the signal that ended a process."""
    if code <= 128:
        return f"exit code {code}: a bug in the stage, see the traceback above"
    try:
        name = signal.Signals(code - 128).name
    except ValueError:
        return f"exit code {code}"
    return f"{name}: {WHY.get(name, 'ended by a signal')}"


def last_line(log: Path | str) -> str:
    """The last non-blank line of a log; empty if there is none."""
    path = Path(log)
    if not path.is_file():
        return ""
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


def end_on_request() -> None:
    """From now on SIGTERM ends this process like an exception: temporary files are deleted, and the reason is printed."""
    signal.signal(signal.SIGTERM, _end)


def end_with_workflow() -> None:
    """From now on end this process when the workflow that started it is gone, so that it cannot collide with a rerun.

    The rules set GRACE_WORKFLOW to Snakemake's process id; a stage run by hand is not affected. On a cluster it is the
    Snakemake inside the job, so the submitting process may exit without ending its jobs.
    """
    workflow = os.environ.get("GRACE_WORKFLOW", "")
    if workflow.isdigit() and _is_alive(int(workflow)):
        threading.Thread(target=_watch, args=(int(workflow),), daemon=True).start()


def _watch(workflow: int) -> None:
    while _is_alive(workflow):
        time.sleep(0.5)
    print("the workflow that started this stage is gone", file=sys.stderr, flush=True)
    # the stage was not cancelled: a scheduler may have killed the whole job for its memory
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
