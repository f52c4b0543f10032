"""Runs of other methods in the workflow: each is evaluated by itself, and what it has no part in is not run again."""

from __future__ import annotations

import os

import pytest

TINY = "config/tiny.yaml"


@pytest.fixture
def copy(copy):
    """A finished run, beside the runs of two other methods."""
    for name in ("mine.trec", "other one.trec"):
        (copy.folder / name).write_text("q Q0 d 1 0.5 t\n")
    return copy


def test_a_run_is_added_changed_and_removed(copy):
    mine = copy.overlay("mine", {"runs": {"mine": "mine.trec"}})
    again = {"evaluate": 1, "metrics": 1, "report": 1}
    assert copy.planned(overlays=(TINY, mine)) == again
    done = copy(overlays=(TINY, mine))
    assert done.returncode == 0, done.stdout + done.stderr
    assert (copy.folder / "results-tiny/scenes/runs/mine/metrics.json").is_file()
    assert copy.planned(overlays=(TINY, mine)) == {}

    both = copy.overlay("both", {"runs": {"mine": "mine.trec", "your-run_2": "other one.trec"}})
    assert copy.planned(overlays=(TINY, both)) == again  # `mine` is not evaluated again

    os.utime(copy.folder / "mine.trec")  # newer, but of the same content: Snakemake compares small files
    assert copy.planned(overlays=(TINY, mine)) == {}
    (copy.folder / "mine.trec").write_text("q Q0 d 1 0.25 t\n")
    assert copy.planned(overlays=(TINY, mine)) == again

    assert copy.planned(overlays=(TINY,)) == {"metrics": 1, "report": 1}


def test_the_commands_of_a_run_and_of_our_own_systems(copy):
    overlay = copy.overlay("both", {"runs": {"your-run_2": "other one.trec"}})
    done = copy("-n", "-p", "--forcerun", "evaluate_system", overlays=(TINY, overlay))
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    folder = "results-tiny/scenes"
    common = f"python -m grace evaluate --dataset {folder}/dataset --run"
    against = f"--baseline {folder}/baseline/run.trec --output {folder}"
    assert f"{common} 'other one.trec' --name your-run_2 {against}/runs/your-run_2/metrics.json" in said
    own = f"{folder}/atomic/seed0"
    assert f"{common} {own}/run.trec --retrieval {own}/retrieval.json {against}/atomic/seed0/metrics.json" in said
    metrics = next(line for line in said.splitlines() if "grace metrics " in line)
    assert metrics.count(".json") == 4 + 1 and f"{folder}/runs/your-run_2/metrics.json" in metrics


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        ({"mine": "none.trec"}, "runs.mine: the TREC run 'none.trec' does not exist"),
        ({"atomic": "mine.trec"}, "the name 'atomic' of a run is that of a system of this workflow"),
        ("mine.trec", "a run needs a name; write {mine: mine.trec}"),
    ],
)
def test_a_wrong_line_is_explained_before_anything_runs(copy, runs, said):
    done = copy("-n", overlays=(TINY, copy.overlay("wrong", {"runs": runs})))
    assert done.returncode != 0
    assert said in done.stdout + done.stderr and "Traceback" not in done.stdout + done.stderr
