"""How a process ends: the exit codes of the command line, and what ended it in words.

An error that a user can do something about becomes one line and a code of its own; anything else is a defect of the project,
keeps its traceback and exits with 1. A process that a signal ended has the code that a shell gives it, 128 + the signal's number.
"""

from __future__ import annotations

import errno
import signal
from dataclasses import dataclass

from grace.system.errors import GraceError, Interrupted

DEFECT = 1
USER_ERROR = 2
AGAIN = 75
"""Interrupted with its state kept: run it again (EX_TEMPFAIL of sysexits.h)."""
UNWRITTEN = 120
"""Python could not write its last words."""
KEYBOARD = 130
"""Interrupted from the keyboard, as by SIGINT."""

WHY = {
    "SIGKILL": "killed from outside, or by the system because memory ran out",
    "SIGTERM": "asked to end from outside: cancelled, out of time, or the workflow was ended",
    "SIGBUS": "a mapped file was cut short, or the disk is full",
    "SIGSEGV": "a library crashed",
    "SIGABRT": "a library gave up, often because memory ran out",
    "SIGXFSZ": "a file grew beyond the limit of this process (ulimit -f)",
}

# What the machine refuses is not a defect of ours: no permission, no space, a file where a folder should be.
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
    """How a process ends that `error` ends; None for a defect, whose traceback is to be shown."""
    if isinstance(error, Interrupted):
        return End(f"interrupted: {' '.join(str(error).split())}", AGAIN)
    if isinstance(error, KeyboardInterrupt):
        return End("interrupted", KEYBOARD)
    said = _said(error)
    return None if said is None else End(f"error: {said}", USER_ERROR)


def _said(error: BaseException) -> str | None:
    """What is wrong with a user's input or machine; None for a defect."""
    if isinstance(error, GraceError):
        return " ".join(str(error).split())
    if isinstance(error, OSError):
        cut_short = error.errno is None and "requested and" in str(error)  # numpy's words for a full disk
        if cut_short or error.errno in MACHINE_ERRORS:
            what = "No space left on device" if cut_short else error.strerror
            return f"{what}: {error.filename or 'while writing'}"
    if isinstance(error, MemoryError):
        return f"memory ran out ({str(error) or 'MemoryError'}); give the stage more"
    # the loader's words for a library that memory has no room for
    if isinstance(error, ImportError) and "failed to map segment" in str(error):
        return f"memory ran out while a library was loaded ({error}); give the stage more"
    return None


def reason(code: int) -> str:
    """An exit code in words; a shell adds 128 to the number of the signal that ended a process."""
    if code <= 128:
        return f"exit code {code}: a defect of the stage, see the traceback above"
    try:
        name = signal.Signals(code - 128).name
    except ValueError:
        return f"exit code {code}"
    return f"{name}: {WHY.get(name, 'ended by a signal')}"
