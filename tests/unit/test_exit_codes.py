"""How a process ends: one line for what the user can fix, the traceback for a bug."""

from __future__ import annotations

import errno
import sys

import pytest

import grace.cli as cli
from grace.system.errors import GraceError, Interrupted
from grace.system.exit_codes import End, end_of, reason


def os_error(number: int | None, *said: str) -> OSError:
    return OSError(number, *said) if number is not None else OSError(*said)


ENDS = [
    (GraceError("two\nlines  of\ttext"), End("error: two\\nlines of\\ttext", 2)),
    (Interrupted("ended at step 3"), End("interrupted: ended at step 3", 75)),
    (KeyboardInterrupt(), End("interrupted", 130)),
    (os_error(errno.EACCES, "Permission denied", "a.txt"), End("error: Permission denied: a.txt", 2)),
    (os_error(errno.ENOSPC, "No space left on device"), End("error: No space left on device: while writing", 2)),
    (os_error(None, "8 requested and 3 written"), End("error: No space left on device: while writing", 2)),
    (MemoryError(), End("error: memory ran out (MemoryError); give the stage more", 2)),
    (MemoryError("3 GiB"), End("error: memory ran out (3 GiB); give the stage more", 2)),
    (
        ImportError("x.so: failed to map segment from shared object"),
        End(
            "error: memory ran out while a library was loaded (x.so: failed to map segment from shared object); "
            "give the stage more",
            2,
        ),
    ),
]
BUGS = [os_error(errno.EBADF, "Bad file descriptor"), os_error(None, "odd"), ImportError("no such"), KeyError("a")]


@pytest.mark.parametrize(("error", "end"), ENDS, ids=lambda value: type(value).__name__)
def test_what_the_user_can_fix_is_one_line(error, end, monkeypatch, capsys) -> None:
    assert end_of(error) == end
    with pytest.raises(SystemExit) as left:
        run(error, monkeypatch)
    assert left.value.code == end.code and capsys.readouterr().err == end.line + "\n"


@pytest.mark.parametrize("error", BUGS, ids=lambda error: type(error).__name__)
def test_a_bug_keeps_its_traceback(error, monkeypatch) -> None:
    assert end_of(error) is None
    with pytest.raises(type(error)) as left:
        run(error, monkeypatch)
    assert left.value is error


def run(error: BaseException, monkeypatch) -> None:
    """The command line, whose command raises `error`."""

    def command(**_) -> None:
        raise error

    for name in ("mask_output", "end_on_request", "end_with_workflow"):  # they change this process
        monkeypatch.setattr(cli, name, lambda: None)
    monkeypatch.setattr(cli, "app", command)
    monkeypatch.setattr(sys, "argv", ["grace"])
    cli.main()


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (1, "exit code 1: a bug in the stage, see the traceback above"),
        (137, "SIGKILL: killed from outside, or by the system because memory ran out"),
        (129, "SIGHUP: ended by a signal"),
        (255, "exit code 255"),
    ],
)
def test_an_exit_code_in_words(code, said) -> None:
    assert reason(code) == said
