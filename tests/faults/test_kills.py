"""SIGKILL and SIGTERM, to Snakemake and to every stage, at random moments; and two runs in one folder."""

from __future__ import annotations

import contextlib
import random
import signal
import time

import psutil
import pytest

from tests.faults.runs import Run, in_words, seconds_of, wait_for_any, wait_for_stage

STAGES = (
    *("dataset", "tokenizer", "tower", "encode", "captioner", "pseudo_queries", "baseline"),
    *("identifiers", "trie", "train", "retrieve", "evaluate", "metrics", "report"),
)
STRIKES = [(victim, number) for victim in ("stage", "snakemake") for number in (signal.SIGKILL, signal.SIGTERM)]


@pytest.mark.long
def test_every_stage_is_struck(fresh: Run, whole: Run, chance: random.Random, repeat: int):
    """From nothing to the report with a signal in every stage; each rerun goes on where the last one was struck.

    Over four repeats every stage meets all of STRIKES, but for those that end beside another one that is struck.
    """
    usual, left, hits = seconds_of(whole), list(STAGES), 0
    while left:
        snakemake = fresh.start()
        found = wait_for_any(fresh, snakemake, left)
        if found is None:  # the rest has ended beside stages that were struck
            assert snakemake.returncode == 0, fresh.said()[-6000:]
            break
        stage, process = found
        left.remove(stage)
        victim, number = STRIKES[(STAGES.index(stage) + repeat) % len(STRIKES)]
        time.sleep(chance.uniform(0, usual[stage]))  # its imports come on top
        at_work = is_at_work(process)
        hits += at_work
        # a stage that has ended meanwhile is not struck, but its Snakemake: it must not go on to the end of the workflow
        strikes_snakemake, others = victim == "snakemake" or not at_work, fresh.stages(snakemake)
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
            (snakemake if strikes_snakemake else process).send_signal(number)
        snakemake.wait(timeout=600)
        if strikes_snakemake:
            for other in others:
                wait_for_end(other)
            fresh.unlock()
    assert hits >= len(STAGES) // 3, "the stages ended before the signals came: the test tests nothing"
    fresh.must_end_as(whole)


def is_at_work(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for_end(process: psutil.Process) -> None:
    """A stage ends by itself when its workflow is gone: it must not meet the rerun."""
    try:
        process.wait(timeout=60)
    except psutil.NoSuchProcess:
        return


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_trainer_goes_on_from_its_state(run: Run, undisturbed: Run, number: signal.Signals, repeat: int):
    """Struck after its first state it leaves the last good model, says why in its log, and resumes."""
    own = run.results / "scenes" / "numeric" / "seed0"
    before = (own / "model" / "model.safetensors").read_bytes()
    snakemake = run.start("-R", "train_model")
    process = wait_for_stage(run, snakemake, "train")
    while not (own / "training_state" / "latest").exists():
        assert snakemake.poll() is None, run.said()[-6000:]
        time.sleep(0.01)
    process.send_signal(number)
    assert snakemake.wait(timeout=300) != 0
    reason = "ended: SIGKILL: " if number == signal.SIGKILL else "interrupted: ended at step "
    assert reason in in_words(run)
    assert (own / "model" / "model.safetensors").read_bytes() == before, "the model of before was to stay"
    run.must_end_as(undisturbed)
    assert "resuming from step" in (run.results / "logs/scenes/numeric/seed0/train.log").read_text()


def test_a_stage_ends_with_its_snakemake(run: Run, undisturbed: Run, repeat: int):
    """After kill -9 of Snakemake no orphan goes on writing beside the rerun."""
    snakemake = run.start("-R", "retrieve_images")
    process = wait_for_stage(run, snakemake, "retrieve")
    snakemake.send_signal(signal.SIGKILL)
    snakemake.wait()
    wait_for_end(process)
    log = (run.results / "logs/scenes/numeric/seed0/retrieve.log").read_text().strip()
    assert log.splitlines()[-1].startswith("ended: SIGTERM"), log
    run.unlock()
    run.must_end_as(undisturbed)


@pytest.mark.long
def test_two_runs_in_one_folder(run: Run, undisturbed: Run, repeat: int):
    """The second is refused in words and disturbs nothing."""
    first = run.start("-R", "assign_identifiers")
    assert wait_for_stage(run, first, "identifiers") is not None
    code, said = Run(run.folder, log="second.log")("-R", "train_model")
    assert code != 0 and "LockException" in said, said
    assert first.wait(timeout=600) == 0, run.said()[-6000:]
    run.must_end_as(undisturbed)
