"""What the machine does: no space, no permission, no memory, a clock that jumps."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.runs import Run, in_words

FORCE = ("dataset", "tokenizer", "encode", "captioner", "identifiers", "train", "retrieve", "evaluate")


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
    mounted = mount("-t", "tmpfs", "-o", "size=400m", "grace-faults", str(run.results))
    shutil.copytree(aside, run.results, dirs_exist_ok=True, symlinks=True)
    shutil.rmtree(aside)
    try:
        yield run.results if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(run.results)], check=True)


def test_a_full_disk(run: Run, undisturbed: Run, own_disk: Path | None, chance: random.Random, repeat: int):
    """Some room is left, less than the forced stage and those after it need; then there is room again."""
    stage = chance.choice(FORCE)
    if own_disk:
        used = sum(path.stat().st_blocks * 512 for path in own_disk.rglob("*"))
        # a forced stage gives the room of its old output back; what it writes now must not fit
        assert mount("-o", f"remount,size={used // 1024 - chance.randrange(8, 400)}k", str(own_disk)) or True
        filler = own_disk / "logs" / "filler"
        fill(filler, leave=chance.randrange(0, 64) * 1024)
        code, said = run("-R", stage)
        filler.unlink()
        assert mount("-o", "remount,size=400m", str(own_disk))
    else:
        code, said = run("-R", stage, limits=f"ulimit -f {chance.randrange(1, 8)}")
    assert code != 0, f"{stage} had room: the test tests nothing\n{said[-4000:]}"
    assert any(
        word in said + in_words(run) for word in ("No space left", "error: File too large", "SIGBUS", "SIGXFSZ")
    ), said[-6000:] + in_words(run)
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
    code, said = run("-R", stage)
    if own_disk:
        assert mount("-o", "remount,rw", str(own_disk))
    else:
        for folder in folders:
            folder.chmod(0o755)
    assert code != 0 and ("Read-only file system" in said or "Permission denied" in said), said[-6000:]
    run.must_end_as(undisturbed)


def test_too_little_memory(run: Run, undisturbed: Run, chance: random.Random, repeat: int):
    """The address space is limited to a random size that torch does not fit into, or hardly."""
    code, said = run(
        "-R", chance.choice(("tower", "train", "retrieve")), limits=f"ulimit -v {chance.randrange(900, 2200)}000"
    )
    assert code != 0, f"it fitted: the test tests nothing\n{said[-3000:]}"
    run.must_end_as(undisturbed)


def test_a_clock_that_jumps(run: Run, undisturbed: Run, chance: random.Random, repeat: int):
    """What was made until some stage bears the time of a clock a day ahead, or behind; what follows, that of the right one."""
    code, said = run("--until", "encode", "-R", "encode")
    assert code == 0, said[-6000:]
    jump = chance.choice((-86400, 86400))
    made = list(run.results.rglob("*"))
    for path in chance.sample(made, len(made) // 2):
        if path.exists():
            os.utime(path, (time.time() + jump, time.time() + jump))
    run.must_end_as(undisturbed)
