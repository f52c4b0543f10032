"""How a process ends: the exit codes of the command line, and the line that explains an error or an exit code.

An error that the user can fix becomes one line with its own exit code. Anything else is a bug in the project: it keeps its
traceback, and the exit code is 1. For a process that a signal ended, the shell reports 128 + the number of the signal.
"""

from __future__ import annotations

import errno
import signal
from dataclasses import dataclass

from grace.system.errors import GraceError, Interrupted

BUG = 1
USER_ERROR = 2
AGAIN = 75
"""Interrupted after saving its state: run it again to resume (EX_TEMPFAIL of sysexits.h)."""
UNWRITTEN = 120
"""Python could not flush its standard output on exit."""
KEYBOARD = 130
"""Interrupted from the keyboard (SIGINT)."""

WHY = {
    "SIGKILL": "killed from outside, or by the system because memory ran out",
    "SIGTERM": "terminated from outside: cancelled, out of time, or the workflow was stopped",
    "SIGBUS": "a memory-mapped file was truncated, or the disk is full",
    "SIGSEGV": "a library crashed",
    "SIGABRT": "a library aborted, often because memory ran out",
    "SIGXFSZ": "a file grew beyond the limit of this process (ulimit -f)",
}

# Errors of the machine rather than bugs: no permission, no space, a file where a folder should be.
MACHINE_ERRORS = {
    errno.EACCES,
    errno.EPERM,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EEXIST,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.EFBIG,
    errno.ENOMEM,
}


@dataclass(frozen=True)
class End:
    """The last line on standard error, and the exit code."""

    line: str
    code: int


def end_of(error: BaseException) -> End | None:
    """How the process ends after `error`; None for a bug, whose traceback should be shown."""
    if isinstance(error, Interrupted):
        return End(f"interrupted: {' '.join(str(error).split())}", AGAIN)
    if isinstance(error, KeyboardInterrupt):
        return End("interrupted", KEYBOARD)
    said = _said(error)
    return None if said is None else End(f"error: {said}", USER_ERROR)


def _said(error: BaseException) -> str | None:
    """What is wrong with the user's input or machine; None for a bug."""
    if isinstance(error, GraceError):
        return " ".join(str(error).split())
    if isinstance(error, OSError):
        cut_short = error.errno is None and "requested and" in str(error)  # how numpy reports a full disk
        if cut_short or error.errno in MACHINE_ERRORS:
            what = "No space left on device" if cut_short else error.strerror
            return f"{what}: {error.filename or 'while writing'}"
    if isinstance(error, MemoryError):
        return f"memory ran out ({str(error) or 'MemoryError'}); give the stage more"
    # how the loader reports that a library does not fit in memory
    if isinstance(error, ImportError) and "failed to map segment" in str(error):
        return f"memory ran out while a library was loaded ({error}); give the stage more"
    return None


def reason(code: int) -> str:
    """Explain an exit code; a shell adds 128 to the number of the signal that ended a process."""
    if code <= 128:
        return f"exit code {code}: a bug in the stage, see the traceback above"
    try:
        name = signal.Signals(code - 128).name
    except ValueError:
        return f"exit code {code}"
    return f"{name}: {WHY.get(name, 'ended by a signal')}"
