"""What a stage does with the GPUs that the workflow promised it: checks that they are there, and takes its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from grace.system.errors import GraceError
from grace.training import launch
from grace.workflow import gpus
from grace.workflow.config import Config
from grace.workflow.gpus import PROMISED, VISIBLE, promised_gpus, take_gpus

ROOT = Path(__file__).resolve().parents[2]
ALL = ("dataset", "encode", "captioner", "pseudo_queries", "train", "retrieve", "baseline")
PHOTOS = {"source": "folder", "folder": {"images": "photos", "captioner": "somebody"}}


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A function that gives this machine so many GPUs, none of them taken, and promises some to the stage."""

    def make(found: int, promised: int) -> None:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: found)
        monkeypatch.setenv(PROMISED, str(promised))

    monkeypatch.setattr(gpus.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(gpus, "_held", [])
    monkeypatch.setenv(VISIBLE, "")  # so that it is set back after the test
    monkeypatch.delenv(VISIBLE)
    return make


def test_trainings_are_promised_all_gpus_and_other_stages_one() -> None:
    config = Config(resources={"gpus": 4, "processes": 4}, tower={"kind": "open_clip"}, dataset=PHOTOS)
    assert promised_gpus(config) == {**dict.fromkeys(ALL, 1), "train": 4, "captioner": 4}
    assert promised_gpus(Config()) == {}


def test_stages_that_compute_on_the_processor_are_promised_none() -> None:
    nearest = {"source": "nearest"}
    small = Config(resources={"gpus": 2, "processes": 2}, pseudo_queries=nearest, retrieve={"device": "cpu"})
    assert promised_gpus(small) == {"train": 2, "captioner": 2}
    assert "pseudo_queries" in promised_gpus(
        Config(resources={"gpus": 2, "processes": 2}, pseudo_queries=nearest, tower={"kind": "open_clip"})
    )


@pytest.mark.parametrize("stage", ALL)
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_every_stage_that_was_promised_gpus_checks_for_them(stage) -> None:
    """Before anything else: before its options are read, and long before it works."""
    environment = {**os.environ, PROMISED: "4"}
    done = subprocess.run(
        [sys.executable, "-m", "grace", stage], cwd=ROOT, env=environment, text=True, capture_output=True, check=False
    )
    assert done.returncode == 2 and done.stderr.startswith(f"error: {stage} needs 4 GPUs"), done.stderr
    assert "torch sees no GPU" in done.stderr and "Traceback" not in done.stderr


def test_a_launcher_checks_before_it_starts_processes(machine, capsys) -> None:
    machine(found=1, promised=2)
    assert launch.main(["--standalone", "--nproc-per-node", "2", "-m", "grace", "train", "--scheme", "atomic"]) == 2
    assert "train needs 2 GPUs (resources.gpus), and torch sees 1 GPU" in capsys.readouterr().err


def test_as_many_as_promised_are_used_as_they_are(machine, monkeypatch) -> None:
    machine(found=2, promised=2)
    take_gpus("train")
    assert VISIBLE not in os.environ
    monkeypatch.setenv(VISIBLE, "GPU-abc,3")
    take_gpus("train")
    assert os.environ[VISIBLE] == "GPU-abc,3"


def test_jobs_of_one_machine_share_no_gpu(machine, monkeypatch) -> None:
    machine(found=5, promised=2)
    taken = []
    for _ in range(2):
        take_gpus("train")
        taken += os.environ[VISIBLE].split(",")
        monkeypatch.delenv(VISIBLE)
    assert taken == ["0", "1", "2", "3"]
    with pytest.raises(GraceError, match="1 of the 5 on this machine are free"):
        take_gpus("train")
    for lock in gpus._held[:3]:  # a stage has ended
        lock.close()
    take_gpus("train")
    assert os.environ[VISIBLE] == "0,1"


def test_gpus_are_chosen_among_those_that_may_be_seen(machine, monkeypatch) -> None:
    machine(found=3, promised=1)
    monkeypatch.setenv(VISIBLE, "4,6,7")
    take_gpus("train")
    assert os.environ[VISIBLE] == "4"


def test_a_stage_without_a_promise_sees_none_and_one_run_by_hand_all(machine, monkeypatch) -> None:
    machine(found=2, promised=0)
    take_gpus("trie")
    assert os.environ[VISIBLE] == ""
    monkeypatch.delenv(VISIBLE)
    monkeypatch.delenv(PROMISED)
    take_gpus("train")
    assert VISIBLE not in os.environ
