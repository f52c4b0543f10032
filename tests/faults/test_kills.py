"""SIGKILL and SIGTERM, to Snakemake and to every stage, at random moments."""

from __future__ import annotations

import random
import signal
import subprocess
import time

import psutil
import pytest

from tests.faults.conftest import Run, in_words, seconds_of, wait_for_stage

SIGNALS = {"kill": signal.SIGKILL, "term": signal.SIGTERM}
STAGES = (
    *("dataset", "tokenizer", "tower", "encode", "captioner", "pseudo_queries", "baseline"),
    *("identifiers", "trie", "train", "retrieve", "evaluate", "metrics", "report"),
)


def strike(run: Run, stage: str, victim: str, number: signal.Signals, moment: float) -> bool:
    """Start a run and send the signal `moment` seconds after `stage` began; False if the stage was quicker than that."""
    snakemake = run.start()
    process = wait_for_stage(run, snakemake, stage)
    assert process is not None, f"{stage} did not run:\n{run.said()[-6000:]}"
    time.sleep(moment)
    alive = process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    try:
        (snakemake if victim == "snakemake" else process).send_signal(number)
    except psutil.NoSuchProcess:
        alive = False
    if victim == "stage" and alive:
        # Snakemake lets what runs beside it finish, then ends with an error
        assert snakemake.wait(timeout=600) != 0, run.said()[-6000:]
    else:
        snakemake.wait(timeout=600)
    if victim == "snakemake":
        gone(process)
        run.unlock()
    return alive


def gone(process: psutil.Process) -> None:
    """A stage ends by itself when its workflow is gone (or has ended it); it must not meet the rerun."""
    try:
        process.wait(timeout=60)
    except psutil.NoSuchProcess:
        return


@pytest.mark.long
@pytest.mark.parametrize("name", SIGNALS)
@pytest.mark.parametrize("victim", ["stage", "snakemake"])
def test_every_stage_in_turn(fresh: Run, undisturbed: Run, chance: random.Random, victim: str, name: str, repeat: int):
    """From nothing to the report, with one signal in each stage: the rerun goes on where the last one was struck."""
    usual = seconds_of(undisturbed)
    struck = 0
    for stage in STAGES:
        if not done(fresh, stage):
            struck += strike(fresh, stage, victim, SIGNALS[name], chance.uniform(0, usual[stage] + 1))
    assert struck >= len(STAGES) // 3, "most stages ended before the signal came: the test tests nothing"
    fresh.must_end_as(undisturbed)


def done(run: Run, stage: str) -> bool:
    """Whether nothing is left to do of a stage (a run that was struck late has done more than the stage struck)."""
    code, said = run("-n", "--quiet", "host")
    assert code == 0, said[-4000:]
    return f"rule {stage}:" not in said and f"\n{stage} " not in said


@pytest.mark.parametrize("name", SIGNALS)
def test_the_trainer_goes_on_from_its_state(run: Run, undisturbed: Run, name: str, repeat: int):
    """Struck after its first state, the rerun resumes; the killed one told why in its log."""
    snakemake = run.start("-R", "train")
    process = wait_for_stage(run, snakemake, "train")
    own = run.results / "scenes" / "numeric" / "seed0"
    while not (own / "training_state" / "latest").exists():
        assert snakemake.poll() is None, run.said()[-6000:]
        time.sleep(0.01)
    process.send_signal(SIGNALS[name])
    assert snakemake.wait(timeout=300) != 0
    assert f"ended: SIG{name.upper()}" in in_words(run)
    assert not (own / "model").exists(), "a model of a trainer that did not finish"
    run.must_end_as(undisturbed)
    assert "going on from step" in (run.results / "logs/scenes/numeric/seed0/train.log").read_text()


def test_snakemake_killed_takes_its_stages_along(run: Run, undisturbed: Run, repeat: int):
    snakemake = run.start("-R", "retrieve")
    process = wait_for_stage(run, snakemake, "retrieve")
    snakemake.send_signal(signal.SIGKILL)
    snakemake.wait()
    gone(process)
    run.unlock()
    run.must_end_as(undisturbed)


def test_two_runs_in_one_folder(run: Run, undisturbed: Run, repeat: int):
    """The second is refused in words; the first is not disturbed."""
    first = run.start("-R", "identifiers")
    wait_for_stage(run, first, "identifiers")
    said = run.said()
    second = subprocess.run(first.args, cwd=undisturbed.folder.anchor, text=True, capture_output=True, check=False)
    assert second.returncode != 0 and "said" not in said
    assert first.wait(timeout=600) == 0, run.said()[-6000:]
    run.must_end_as(undisturbed)
