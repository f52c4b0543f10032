"""A stage that was asked to end, and that Snakemake starts again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from grace.system import cancelled
from grace.system.cancelled import ATTEMPT, LOG, mark_cancelled, refuse_if_cancelled
from grace.system.ending import _watch, end_with_workflow
from grace.system.errors import GraceError
from grace.training import launch
from grace.training.signals import Termination

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def stage(monkeypatch, tmp_path):
    """A function that makes this process an attempt of a stage of a workflow, with that log."""
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)

    def become(log: str, attempt: int) -> None:
        monkeypatch.setenv(LOG, str(tmp_path / log))
        monkeypatch.setenv(ATTEMPT, str(attempt))

    become("train.log", attempt=2)
    return become


def test_only_what_was_cancelled_is_refused_and_only_in_this_run(stage, tmp_path) -> None:
    refuse_if_cancelled()
    mark_cancelled()
    with pytest.raises(GraceError, match="cancelled and is not restarted in this run; start a new run"):
        refuse_if_cancelled()
    stage("other.log", attempt=2)
    refuse_if_cancelled()
    stage("train.log", attempt=3)
    with pytest.raises(GraceError, match="cancelled"):
        refuse_if_cancelled()
    stage("train.log", attempt=1)  # of the next run
    refuse_if_cancelled()
    stage("train.log", attempt=2)
    refuse_if_cancelled()
    assert list(tmp_path.iterdir()) == []


def test_a_stage_by_hand_neither_marks_nor_refuses(stage, monkeypatch, tmp_path) -> None:
    mark_cancelled()
    assert [path.name for path in tmp_path.iterdir()] == ["train.log.cancelled"]
    monkeypatch.delenv(LOG)
    refuse_if_cancelled()
    (tmp_path / "train.log.cancelled").unlink()
    mark_cancelled()
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_its_launcher_ends_was_not_cancelled(stage, monkeypatch) -> None:
    """The launcher ends all processes when one was killed for memory: the stage may be started again."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    with Termination() as termination:
        os.kill(os.getpid(), signal.SIGTERM)
        assert termination.asked_of_any()
    refuse_if_cancelled()


def test_a_training_that_is_asked_to_end_marks_itself_before_it_saves(stage) -> None:
    with Termination():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(GraceError):
            refuse_if_cancelled()


def test_a_launcher_that_is_asked_to_end_marks_the_stage_and_refuses_it(stage, monkeypatch, capsys) -> None:
    monkeypatch.setattr(launch, "_children", lambda process: [])
    with pytest.raises(SystemExit):
        launch._hand_on(signal.SIGTERM, None)
    assert launch.main(["--standalone", "-m", "grace", "train", "--output", "results/model"]) == 2
    assert "was cancelled" in capsys.readouterr().err


def test_a_stage_whose_workflow_is_gone_was_not_cancelled(stage, monkeypatch) -> None:
    """A scheduler that kills a job for its memory may kill the workflow's process first."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    ended = []
    monkeypatch.setattr(os, "kill", lambda process, number: ended.append(number))
    _watch(gone.pid)
    mark_cancelled()  # the handler of that signal
    assert ended == [signal.SIGTERM] and cancelled._mark() is None


@pytest.mark.parametrize("container", [False, True])
def test_a_workflow_that_is_gone_before_the_stage_begins_to_watch(monkeypatch, container) -> None:
    """It must not run on beside the rerun. In a container the number may be that of a process outside."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    ended = threading.Event()
    monkeypatch.setattr(os, "kill", lambda process, number: ended.set())
    monkeypatch.setenv("GRACE_WORKFLOW", str(gone.pid))
    if container:
        monkeypatch.setenv("APPTAINER_CONTAINER", "/image.sif")
    end_with_workflow()
    assert ended.wait(timeout=0.5 if container else 30) is not container


def test_a_stage_that_gets_sigterm_is_refused_the_next_time(tmp_path) -> None:
    """The command line, from the signal to the refusal."""
    environment = {**os.environ, LOG: str(tmp_path / "trie.log"), ATTEMPT: "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c"]
    wait = "import time, grace.cli as c; c.app = lambda **_: (print('at work', flush=True), time.sleep(60))"
    arguments = ["trie", "--output", "trie.safetensors"]
    process = subprocess.Popen(
        [*command, f"{wait}; c.main()", *arguments],
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout.readline() == "at work\n"
    process.send_signal(signal.SIGTERM)
    assert "ended: SIGTERM" in process.communicate(timeout=60)[1] and process.returncode == 143
    again = subprocess.run(
        [sys.executable, "-m", "grace", *arguments], env={**environment, ATTEMPT: "2"}, text=True, capture_output=True,
        check=False,
    )  # fmt: skip
    assert again.returncode == 2 and "error: this stage was cancelled" in again.stderr
