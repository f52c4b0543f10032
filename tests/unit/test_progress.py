"""Progress: a bar on a terminal, one line every ten seconds in a log, and no silence while a single item is slow."""

from __future__ import annotations

import ast
import io
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tqdm import tqdm

from grace.system.progress import BYTES, LogLines, busy, duration, progress, say

ROOT = Path(__file__).resolve().parents[2]
LONG = 30.0
"""Seconds that a test waits for another thread before it fails."""


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Log(io.StringIO):
    """A log file that a test can wait for."""

    def __init__(self) -> None:
        super().__init__()
        self.grown = threading.Condition()

    def write(self, text: str) -> int:
        with self.grown:
            self.grown.notify_all()
            return super().write(text)

    def wait_for_lines(self, number: int) -> bool:
        with self.grown:
            return self.grown.wait_for(lambda: len(self.lines()) >= number, LONG)

    def lines(self) -> list[str]:
        return self.getvalue().splitlines()


def lines_of(total, done=0, unit="images", items=None):
    clock, log = Clock(), Log()
    return LogLines(items, desc="encode", unit=unit, total=total, done=done, file=log, clock=clock), clock, log


def test_lines_of_a_loop():
    bar, clock, log = lines_of(2600)
    with bar:
        clock.now = 10.0
        bar.tick()
        bar.update(350)
        bar.tick()
        clock.now = 35.0
        bar.update(850)
        bar.tick()
        clock.now = 76.0
        bar.update(1400)
    assert log.lines() == [
        "encode: 0 of 2,600 images, 10 s so far",
        "encode: 350 of 2,600 images (13 %), 35 images/s, about 1 min 4 s left",
        "encode: 1,200 of 2,600 images (46 %), 34 images/s, about 41 s left",
        "encode: 2,600 images in 1 min 16 s, 34 images/s",
    ]


def test_values_of_a_training_stand_at_the_end_of_its_lines():
    bar, clock, log = lines_of(100)
    with bar:
        bar.update(50)
        bar.set_postfix(loss="0.125", queries=64)
        clock.now = 10.0
        bar.tick()
    assert log.lines()[0] == "encode: 50 of 100 images (50 %), 5 images/s, about 10 s left; loss 0.125; queries 64"


def test_a_resumed_loop_counts_the_speed_of_this_run_alone():
    bar, clock, log = lines_of(2600, done=2000)
    with bar:
        bar.update(300)
        clock.now = 10.0
        bar.tick()
        bar.update(300)
    assert log.lines() == [
        "encode: 2,300 of 2,600 images (88 %), 30 images/s, about 10 s left",
        "encode: 600 images in 10 s, 60 images/s (2,000 images were there before)",
    ]


def test_bytes_and_an_unknown_total():
    bar, clock, log = lines_of(4_000_000_000, unit=BYTES)
    with bar:
        bar.update(1_200_000_000)
        clock.now = 100.0
        bar.tick()
        bar.update(2_800_000_000)
    assert log.lines() == [
        "encode: 1.2 of 4.0 GB (30 %), 12.0 MB/s, about 3 min 53 s left",
        "encode: 4.0 GB in 1 min 40 s, 40.0 MB/s",
    ]
    bar, clock, log = lines_of(None, unit="files")
    with bar:
        bar.update(5)
        clock.now = 20.0
        bar.tick()
    assert log.lines()[0] == "encode: 5 files, 0.25 files/s"


def test_a_short_loop_prints_nothing():
    bar, clock, log = lines_of(3, items=iter("abc"))
    for _ in bar:
        clock.now += 0.3
    assert log.lines() == []


def test_an_iterated_loop_ends_with_a_line_and_a_broken_one_says_where():
    bar, clock, log = lines_of(3, items=iter("abc"))
    seen = []
    for item in bar:
        seen.append(item)
        clock.now += 20.0
    assert seen == ["a", "b", "c"] and log.lines() == ["encode: 3 images in 1 min 0 s, 0.05 images/s"]
    bar, clock, log = lines_of(3)
    with pytest.raises(KeyError), bar:
        bar.update()
        clock.now = 20.0
        raise KeyError("broken")
    assert log.lines() == ["encode: stopped at 1 of 3 images after 20 s"]


def test_no_silence_while_one_item_is_slow():
    """The first item ends only after three lines of the log have come."""
    log = Log()
    for _ in LogLines(iter("ab"), desc="slow", unit="items", total=2, file=log, every=0.01):
        assert log.wait_for_lines(3), log.getvalue()
    assert all(line.startswith("slow: ") for line in log.lines())


def test_no_silence_during_a_call_that_reports_nothing(monkeypatch):
    log = Log()
    monkeypatch.setattr(sys, "stderr", log)
    with busy("loading the tower", every=0.01):
        assert log.wait_for_lines(1) and log.lines()[0] == "loading the tower ..."
        assert log.wait_for_lines(3), log.getvalue()
    assert re.fullmatch(r"loading the tower: \d\.\d s so far", log.lines()[1])
    assert re.fullmatch(r"loading the tower: took \d+\.\d s", log.lines()[-1])
    printed = len(log.lines())
    with busy("opening the trie"):
        pass
    assert log.lines()[printed:] == ["opening the trie ..."]


class Yielding(int):
    """A number whose addition lets other threads run before it is stored: unlocked counts get lost."""

    def __add__(self, n: int) -> Yielding:
        total = int(self) + n
        time.sleep(0)
        return Yielding(total)


def test_counts_of_many_threads_add_up():
    bar, clock, log = lines_of(800)
    bar.count = Yielding(0)
    start = threading.Barrier(8)

    def count():
        start.wait(LONG)
        for _ in range(100):
            bar.update()

    with bar:
        threads = [threading.Thread(target=count) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        clock.now = 10.0
    assert log.lines() == ["encode: 800 images in 10 s, 80 images/s"]


def test_a_terminal_has_a_bar_and_a_log_has_lines(monkeypatch):
    assert isinstance(progress([1, 2], desc="x", unit="items"), LogLines)
    monkeypatch.setattr(sys, "stderr", terminal := io.StringIO())
    terminal.isatty = lambda: True
    bar = progress([1, 2], desc="x", unit="items")
    assert isinstance(bar, tqdm) and list(bar) == [1, 2]
    assert "2/2" in terminal.getvalue() and "items/s" in terminal.getvalue()


def test_a_process_that_does_not_speak_counts_in_silence(capsys):
    with progress(total=3, desc="x", unit="items", shown=False) as bar:
        bar.update()
    assert list(progress([1, 2], desc="x", unit="items", shown=False)) == [1, 2]
    assert capsys.readouterr().err == ""


def test_what_is_said_is_in_the_log_at_once():
    script = "from grace.system.progress import say; import os; say('2,600 images'); os._exit(0)"  # flushes nothing
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == "2,600 images\n"
    say("above the bars", log := Log())
    assert log.getvalue() == "above the bars\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (3599.7, "1 h 0 min"),
     (7512, "2 h 5 min")],
)  # fmt: skip
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_no_other_module_draws_bars():
    """A bar of tqdm shows nothing in a log file; every loop goes through `progress`."""
    own = ROOT / "grace/system/progress.py"
    importing = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "grace").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom | ast.Import)
        and "tqdm" in (getattr(node, "module", None) or "", *(name.name for name in node.names))
    }
    assert importing == {str(own.relative_to(ROOT))}
