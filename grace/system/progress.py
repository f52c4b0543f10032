"""How a stage shows what it is doing: a bar on a terminal, plain lines in a log file.

A bar redraws its line, which a log file cannot show, so there a loop prints one line every ten seconds, and one at its end
unless that comes within a second:

    encode: 1,200 of 2,600 images (46 %), 35 images/s, about 40 s left
    encode: 2,600 images in 1 min 15 s, 35 images/s

The lines come from a thread of their own, so that even a single slow item shows progress. Progress goes to standard error;
what a stage reports (`say`) goes to standard output.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Generic, Protocol, Self, TextIO, TypeVar

from tqdm import tqdm

T = TypeVar("T")

EVERY = 10.0
"""Seconds between two lines of a log."""
SHORT = 1.0
"""A loop that takes fewer seconds prints no line at its end."""
BYTES = "B"
"""The unit of counts that are shown as kB, MB or GB."""


class Progress(Protocol[T]):
    """What `progress` returns: iterate over it, or use it as a context and call `update`."""

    def update(self, n: int = 1) -> object:
        """Count `n` more items as done."""

    def set_postfix(self, **values: object) -> object:
        """Show these values, such as a loss, at the end of the line from now on."""

    def __iter__(self) -> Iterator[T]: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...


def say(text: str, file: TextIO | None = None) -> None:
    """Print a line at once, above the bars of a terminal (default: to standard output)."""
    file = file or sys.stdout
    tqdm.write(text, file=file)
    file.flush()


def progress(
    items: Iterable[T] | None = None,
    *,
    desc: str,
    unit: str,
    total: int | None = None,
    done: int = 0,
    shown: bool = True,
) -> Progress[T]:
    """Show how far a loop over `items` is, or, without items, how far the calls of `update` are.

    `unit` is a plural ("images") or `BYTES`. `total` is taken from `items` where they have a length; `done` of them were
    finished before. Nothing is shown unless `shown`: in a distributed run one process speaks for all.
    """
    if total is None and hasattr(items, "__len__"):
        total = len(items)
    if not shown or sys.stderr.isatty():
        scaled = {"unit": "B", "unit_scale": True} if unit == BYTES else {"unit": f" {unit}"}
        return tqdm(items, total=total, desc=desc, initial=done, disable=not shown, **scaled)
    return LogLines(items, desc=desc, unit=unit, total=total, done=done)


@contextmanager
def busy(what: str, every: float = EVERY, clock: Callable[[], float] = time.monotonic) -> Iterator[None]:
    """Say that a call has begun that reports nothing itself ("loading the tower"), and every ten seconds that it still runs."""
    if int(os.environ.get("RANK", 0)) != 0:  # in a distributed run one process speaks for all
        yield
        return
    started = clock()
    say(f"{what} ...", sys.stderr)
    with _Ticker(lambda: say(f"{what}: {duration(clock() - started)} so far", sys.stderr), every):
        yield
    if clock() - started >= every:
        say(f"{what}: took {duration(clock() - started)}", sys.stderr)


class _Ticker:
    """A thread that calls `tick` every `every` seconds while the context is open."""

    def __init__(self, tick: Callable[[], None], every: float) -> None:
        self.tick, self.every = tick, every
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def _run(self) -> None:
        while not self.ended.wait(self.every):
            self.tick()

    def __enter__(self) -> Self:
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.ended.set()
        self.thread.join()


class LogLines(Generic[T]):
    """Progress as lines of a log file; `update` may be called from any thread."""

    def __init__(
        self,
        items: Iterable[T] | None,
        *,
        desc: str,
        unit: str,
        total: int | None = None,
        done: int = 0,
        file: TextIO | None = None,
        every: float = EVERY,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.items, self.desc, self.unit, self.total = items, desc, unit, total
        self.before, self.file, self.clock = done, file or sys.stderr, clock
        self.count = 0  # since the beginning of this run
        self.values = ""
        self.lock = threading.Lock()
        self.ticker = _Ticker(self.tick, every)
        self.started = clock()

    def update(self, n: int = 1) -> None:
        with self.lock:
            self.count += n

    def set_postfix(self, **values: object) -> None:
        self.values = "".join(f"; {name} {value}" for name, value in values.items())

    def tick(self) -> None:
        """Print how far it is by now."""
        say(self._line(), self.file)

    def __iter__(self) -> Iterator[T]:
        with self:
            for item in self.items or ():
                yield item
                self.update()

    def __enter__(self) -> Self:
        self.started = self.clock()
        self.ticker.__enter__()
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        self.ticker.__exit__()
        # on SIGTERM (SystemExit) the last line of the log is the reason, which has been printed
        if self.clock() - self.started >= SHORT and kind is not SystemExit:
            say(self._line() if kind is None else self._stopped(), self.file)

    def _line(self) -> str:
        return self._how_far() + self.values

    def _how_far(self) -> str:
        with self.lock:
            count = self.count
        now, seconds = self.before + count, max(self.clock() - self.started, 1e-9)
        if not count:
            return f"{self.desc}: {self._so_far(now)}, {duration(seconds)} so far"
        speed = _speed(count / seconds, self.unit)
        if self.total is None:
            return f"{self.desc}: {self._so_far(now)}, {speed}"
        if now < self.total:
            left = duration((self.total - now) * seconds / count)
            share = 100 * now // self.total
            return f"{self.desc}: {self._so_far(now)} ({share} %), {speed}, about {left} left"
        before = f" ({_amount(self.before, self.unit)} were there before)" if self.before else ""
        return f"{self.desc}: {_amount(count, self.unit)} in {duration(seconds)}, {speed}{before}"

    def _so_far(self, now: int) -> str:
        return _amount(now, self.unit) if self.total is None else _amount(now, self.unit, of=self.total)

    def _stopped(self) -> str:
        seconds = self.clock() - self.started
        return f"{self.desc}: stopped at {self._so_far(self.before + self.count)} after {duration(seconds)}"


def duration(seconds: float) -> str:
    """A time as people say it: 0.4 s, 40 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _amount(count: int, unit: str, of: int | None = None) -> str:
    """ "1,200 images", "1,200 of 2,600 images"; bytes in the unit that suits the larger number."""
    divisor, unit, digits = _scale(max(count, of or 0)) if unit == BYTES else (1, unit, 0)
    shown = f"{count / divisor:,.{digits}f}"
    return f"{shown} {unit}" if of is None else f"{shown} of {of / divisor:,.{digits}f} {unit}"


def _speed(rate: float, unit: str) -> str:
    if unit == BYTES:
        divisor, unit, digits = _scale(rate)
        return f"{rate / divisor:.{digits}f} {unit}/s"
    return f"{rate:,.0f} {unit}/s" if rate >= 10 else f"{rate:.2g} {unit}/s"


def _scale(count: float) -> tuple[int, str, int]:
    """Divisor, unit and number of decimals to show `count` bytes with."""
    for divisor, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= divisor:
            return divisor, name, 1
    return 1, "bytes", 0
