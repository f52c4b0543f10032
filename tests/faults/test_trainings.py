"""kill -9, SIGTERM and a full disk at random moments of a training: it ends in the parameters of one that was left alone.

GRACE_FAULTS=10 python -m pytest tests/faults/test_trainings.py      ten times, some minutes
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.faults.test_machine import fill, mount
from tests.workflow.trainers import make_folders, start

STEPS = 240
KEYS = {"steps": STEPS, "save_every": 20, "log_every": 1}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """What the training reads, and the model of a training that is left alone."""
    folder = make_folders(tmp_path_factory.mktemp("trainings"))
    whole = start(folder, folder / "whole", **KEYS)
    said, _ = whole.communicate(timeout=600)
    assert whole.returncode == 0, said
    return folder


@pytest.fixture
def disk(tmp_path) -> Iterator[tuple[Path, bool]]:
    """A folder for state and model, and whether it is a file system of its own that can be filled up."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = mount("-t", "tmpfs", "-o", "size=48m", "grace-faults", str(folder))
    try:
        yield folder, mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_training_that_is_struck_ends_as_if_nothing_had_been(folders, disk, chance, repeat):
    where, mounted = disk
    strikes = ["kill -9", "SIGTERM", "full disk"]
    chance.shuffle(strikes)
    moments = sorted(chance.sample(range(1, STEPS - 20), len(strikes)))
    hit = []
    for strike, step in zip(strikes, moments, strict=True):
        training = start(folders, where / "model", **KEYS)
        wait_for_step(training, where / "model_state" / "metrics.jsonl", step)
        time.sleep(chance.uniform(0, 0.05))
        if strike == "kill -9":
            training.kill()
        elif strike == "SIGTERM":
            training.terminate()
        elif mounted:
            fill(where / "filler", leave=chance.randrange(0, 300) * 1024)
        else:
            psutil.Process(training.pid).rlimit(psutil.RLIMIT_FSIZE, (4096, psutil.RLIM_INFINITY))
        said, _ = training.communicate(timeout=600)
        (where / "filler").unlink(missing_ok=True)
        # 143: before the first step SIGTERM ends a training at once, there is nothing new to save
        wanted = {"kill -9": (-signal.SIGKILL,), "SIGTERM": (75, 143), "full disk": (2,)}[strike]
        assert training.returncode in (*wanted, 0), f"{strike}: {said}"
        if training.returncode == 0:
            break
        hit.append(strike)
        last = said.strip().splitlines()[-1] if said.strip() else ""
        if strike == "full disk":
            assert last.startswith("error: ") and (
                "cannot be written" in last or "No space" in last or "too large" in last
            ), said
        assert strike != "SIGTERM" or last.startswith(("interrupted: ended at step", "ended: SIGTERM")), said
        assert not (where / "model").exists(), "a model of a training that did not finish"
    print(f"{strikes} at steps {moments}; hit: {hit}")
    assert len(hit) >= 2, "the training ended before it was struck: the test tests nothing"
    training = start(folders, where / "model", **KEYS)
    said, _ = training.communicate(timeout=600)
    assert training.returncode == 0 and "resuming from step" in said, said
    assert (where / "model" / "model.safetensors").read_bytes() == (
        folders / "whole" / "model.safetensors"
    ).read_bytes()
    lines = [(folder / "metrics.jsonl").read_text().splitlines() for folder in (folders / "whole", where / "model")]
    assert [_loss(line) for line in lines[0]] == [_loss(line) for line in lines[1]]
    assert not (where / "model_state").exists()


def wait_for_step(training: subprocess.Popen, metrics: Path, step: int) -> None:
    while training.poll() is None:
        if metrics.exists() and len(metrics.read_bytes().splitlines()) >= step:
            return
        time.sleep(0.005)


def _loss(line: str) -> tuple[int, float]:
    said = json.loads(line)
    return said["step"], said["loss"]
