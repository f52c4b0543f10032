"""How a stage ended, in words, as the last line of its log.

A stage that fails by itself prints its reason (`error: ...`, or a traceback); one that is asked to end prints `ended: SIGTERM ...`,
a training `interrupted: ...`, since it keeps the state of its last step first; for one that is killed the workflow writes the
line, by `python -m grace ended`.
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
    "SIGTERM": "asked to end from outside: cancelled, out of time, or the workflow was ended",
    "SIGBUS": "a mapped file was cut short, or the disk is full",
    "SIGSEGV": "a library crashed",
    "SIGABRT": "a library gave up, often because memory ran out",
    "SIGXFSZ": "a file grew beyond the limit of this process (ulimit -f)",
}


def reason(code: int) -> str:
    """An exit code in words; a shell adds 128 to the number of the signal that ended a process."""
    if code <= 128:
        return f"exit code {code}: a defect of the stage, see the traceback above"
    try:
        name = signal.Signals(code - 128).name
    except ValueError:
        return f"exit code {code}"
    return f"{name}: {WHY.get(name, 'ended by a signal')}"


def last_line(log: Path | str) -> str:
    """The last line of a log that is not blank; empty if there is none."""
    path = Path(log)
    if not path.is_file():
        return ""
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else ""


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
    os.environ.pop(LOG, None)  # nobody cancelled the stage: a scheduler may have killed the whole job for its memory
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
