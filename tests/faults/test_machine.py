"""What the machine does: no space, no permission, no memory, a clock that jumps."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.runs import ROOT, RULE_OF, Run, in_words

FORCE = ("dataset", "tokenizer", "tower", "encode", "identifiers", "train", "retrieve", "evaluate")


def mount(*arguments: str) -> bool:
    """Whether a mount is allowed here and was made."""
    if os.geteuid() != 0:
        return False
    return subprocess.run(["mount", *arguments], capture_output=True, check=False).returncode == 0


@pytest.fixture
def own_disk(run: Run) -> Iterator[Path | None]:
    """The results on a file system of their own, in memory; None where nothing may be mounted."""
    aside = run.folder / "aside"
    run.results.rename(aside)
    run.results.mkdir()
    mounted = mount("-t", "tmpfs", "-o", "size=64m", "grace-faults", str(run.results))
    shutil.copytree(aside, run.results, dirs_exist_ok=True, symlinks=True)
    shutil.rmtree(aside)
    try:
        yield run.results if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(run.results)], check=True)


class Filler(threading.Thread):
    """Keeps a disk full, but for `leave` bytes: what a stage deletes gives no room to another."""

    def __init__(self, disk: Path, leave: int) -> None:
        super().__init__(daemon=True)
        self.disk, self.leave, self.path, self.enough = disk, leave, disk / "logs" / "filler", threading.Event()
        self._fill()  # full before anything starts

    def run(self) -> None:
        while not self.enough.wait(0.002):
            self._fill()

    def _fill(self) -> None:
        status = os.statvfs(self.disk)
        room = status.f_bavail * status.f_frsize - self.leave
        with contextlib.suppress(OSError), open(self.path, "ab", buffering=0) as file:
            while room > 0:
                room -= file.write(b"\0" * min(room, 1 << 20))

    def __enter__(self) -> Filler:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.enough.set()
        self.join()
        self.path.unlink()


def test_a_full_disk(run: Run, undisturbed: Run, own_disk: Path | None, chance: random.Random, repeat: int):
    """Some room is left, less than the forced stage and those after it need; then there is room again."""
    stage = chance.choice(FORCE)
    if own_disk:
        with Filler(own_disk, leave=chance.randrange(0, 48) * 1024):
            code, said = run("-R", RULE_OF.get(stage, stage))
    else:
        code, said = run("-R", RULE_OF.get(stage, stage), limits=f"ulimit -f {chance.randrange(1, 8)}")
    assert code != 0, f"{stage} had room: the test tests nothing\n{said[-4000:]}"
    words = ("no space left", "make room", "error: file too large", "sigbus", "sigxfsz")
    told = said + in_words(run)
    assert any(word in told.lower() for word in words), told[-6000:]
    run.must_end_as(undisturbed)


def fill(path: Path, leave: int) -> None:
    """Write a file until the disk is full, then take `leave` bytes back."""
    size = 0
    with open(path, "wb", buffering=0) as file:
        try:
            while True:
                size += file.write(b"\0" * 65536)
        except OSError:
            file.truncate(max(0, size - leave))


def test_a_read_only_output_folder(
    run: Run, undisturbed: Run, own_disk: Path | None, chance: random.Random, repeat: int
):
    stage = chance.choice(FORCE)
    if own_disk:
        assert mount("-o", "remount,ro", str(own_disk))
    else:
        folders = [path for path in (run.results, *run.results.rglob("*")) if path.is_dir()]
        for folder in folders:
            folder.chmod(0o555)
    code, said = run("-R", RULE_OF.get(stage, stage))
    if own_disk:
        assert mount("-o", "remount,rw", str(own_disk))
    else:
        for folder in folders:
            folder.chmod(0o755)
    words = ("Write-protected output files", "Read-only file system", "Permission denied")
    assert code != 0 and any(word in said for word in words), said[-6000:]
    run.must_end_as(undisturbed)


def test_too_little_memory(run: Run, undisturbed: Run, chance: random.Random, repeat: int):
    """The address space of the stages is limited to a random size that torch and transformers do not fit into, or hardly."""
    programs = run.folder / "programs"
    programs.mkdir()
    limited = f'#!/usr/bin/env bash\nulimit -v {chance.randrange(300, 900)}000\nexec "{sys.executable}" "$@"\n'
    (programs / "python").write_text(limited)
    (programs / "python").chmod(0o755)
    stage = chance.choice(("train", "retrieve"))
    code, said = run("-R", RULE_OF.get(stage, stage), programs=programs)
    assert code != 0, f"it fitted: the test tests nothing\n{said[-3000:]}"
    assert in_words(run, stage), said[-6000:]
    shutil.rmtree(programs)
    run.must_end_as(undisturbed)


@pytest.mark.long
def test_a_clock_that_jumps(run: Run, undisturbed: Run, chance: random.Random, repeat: int):
    """What was made until some stage bears the time of a clock a day ahead, or behind; what follows, that of the right one."""
    code, said = run("--until", "encode", "-R", "encode")
    assert code == 0, said[-6000:]
    jump = chance.choice((-86400, 86400))
    made = list(run.results.rglob("*"))
    for path in chance.sample(made, len(made) // 2):
        if path.exists():
            os.utime(path, (time.time() + jump, time.time() + jump))
    if jump > 0:
        code, said = run()
        assert code != 0 and "python -m grace retime results-tiny" in said, said[-3000:]
        command = [sys.executable, "-m", "grace", "retime", str(run.results)]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    run.must_end_as(undisturbed)
