"""A trainer that is killed with -9 and run again ends in the same weights as one that was left alone."""

from __future__ import annotations

import fcntl
import json
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.workflow import trainers
from tests.workflow.trainers import make_folders


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    return make_folders(tmp_path_factory.mktemp("resume"))


def start(folder: Path, name: str) -> subprocess.Popen:
    return trainers.start(folder, folder / name)


def test_kill_and_resume(folders: Path) -> None:
    whole = start(folders, "whole")
    said, _ = whole.communicate(timeout=300)
    assert whole.returncode == 0, said

    killed = start(folders, "killed")
    state = folders / "killed_state"
    deadline = time.monotonic() + 200
    while not (state / "latest").exists():
        assert time.monotonic() < deadline and killed.poll() is None, killed.communicate()[0]
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    said, _ = killed.communicate()
    assert killed.returncode == -signal.SIGKILL, "the trainer ended before it was killed: give it more steps"
    assert not (folders / "killed").exists(), "a model was written by a trainer that did not finish"

    again = start(folders, "killed")
    said, _ = again.communicate(timeout=300)
    assert again.returncode == 0, said
    assert "resuming from step" in said
    assert not state.exists()
    weights = [(folders / name / "model.safetensors").read_bytes() for name in ("whole", "killed")]
    assert weights[0] == weights[1]
    lines = [
        [json.loads(line) for line in (folders / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("whole", "killed")
    ]
    for one, other in zip(*lines, strict=True):
        assert (one["step"], one["loss"]) == (other["step"], other["loss"])


def test_sigterm_leaves_with_code_75_and_the_same_weights_in_the_end(folders: Path) -> None:
    """As a batch system ends a job: the state of that very step is kept, and the rerun ends as if nothing had been."""
    ended = start(folders, "ended")
    state = folders / "ended_state"
    deadline = time.monotonic() + 200
    while not (state / "latest").exists():
        assert time.monotonic() < deadline and ended.poll() is None, ended.communicate()[0]
        time.sleep(0.02)
    ended.send_signal(signal.SIGTERM)
    said, _ = ended.communicate(timeout=120)
    assert ended.returncode == 75 and "interrupted: ended at step" in said and "Traceback" not in said, said
    again = start(folders, "ended")
    said, _ = again.communicate(timeout=300)
    assert again.returncode == 0 and "resuming from step" in said, said
    whole = folders / "whole" / "model.safetensors"
    assert whole.exists(), "test_kill_and_resume makes the weights to compare with"
    assert whole.read_bytes() == (folders / "ended" / "model.safetensors").read_bytes()


def test_a_second_trainer_is_kept_out(folders: Path) -> None:
    """While one process holds the state folder, another ends in one line, and leaves the state alone."""
    state = folders / "held_state"
    state.mkdir()
    with open(state / "lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = start(folders, "held")
        said, _ = second.communicate(timeout=300)
    assert second.returncode == 2 and "another training is using" in said and "Traceback" not in said, said
    assert [entry.name for entry in state.iterdir()] == ["lock"] and not (folders / "held").exists()
