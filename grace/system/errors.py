"""The exception whose message is meant for users.

The message of a `GraceError` is one sentence: what is wrong, where, and what to do. The command line prints it as one line
and exits with code 2; any other uncaught exception is a bug in the project and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from grace.system.printable import escaped


class GraceError(Exception):
    """A problem with the user's input or machine, in one line.

    Line breaks and control characters, for instance from a file name, are shown as escapes.
    """

    def __str__(self) -> str:
        return escaped(super().__str__())


class Interrupted(GraceError):
    """The work was interrupted from outside and can be resumed: exit code 75 (EX_TEMPFAIL of sysexits.h)."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the closest known word, else the list of all known words."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(known)}"
