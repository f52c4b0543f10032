"""`make run`: a panel on a terminal, short lines in a log file, and what it says at its end. The stages are stand-ins."""

from __future__ import annotations

import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.workflow.conftest import ROOT, stand_in

# asked for by `make run` itself, and answered by the package; the rows of a real run make the table
REAL = f"""
case $stage in config | table | ended | before | after) exec {sys.executable} "$@" ;; esac
if [[ $stage == metrics ]]; then
  while [[ $1 != --output ]]; do shift; done
  mkdir -p "$(dirname "$2")"; cp {ROOT}/docs/results/scenes.json "$2"; exit
fi
"""
FAILS = 'if [[ $stage == encode ]]; then echo "error: the disk is full"; exit 3; fi\n'


@pytest.fixture
def checkout(tmp_path):
    """A copy of the repository with an environment that is installed: Snakemake, and a stand-in for the stages."""
    for name in (
        "Makefile",
        "Snakefile",
        "config.yaml",
        "rules",
        "profiles",
        "envs",
        "grace",
        "requirements",
        "pyproject.toml",
    ):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tmp_path / name)
    programs = tmp_path / ".venv/bin"
    programs.mkdir(parents=True)
    stand_in(programs, REAL)
    (programs / "snakemake").write_text(f'#!/bin/sh\nexec {sys.executable} -m snakemake "$@"\n')
    (programs / "snakemake").chmod(0o755)
    (tmp_path / ".venv/run.done").touch()
    return tmp_path


def outside_of_make() -> dict[str, str]:
    """The environment without what `make test` adds: a make inside of a make says which folder it enters."""
    return {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}


def make(checkout: Path, *arguments: str) -> subprocess.CompletedProcess:
    """`make run` with its output in a file, as in a batch job."""
    environment = {**outside_of_make(), "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        ["make", "run", "CORES=2", *arguments],
        cwd=checkout, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300,
    )  # fmt: skip


def on_a_terminal(checkout: Path, *arguments: str) -> tuple[int, str]:
    """`make run` on a terminal of 100 columns: exit code and what was printed, without colours and cursor movements."""
    ours, theirs = pty.openpty()
    environment = {
        **outside_of_make(),
        "PYTHONPATH": str(checkout),
        "OMP_NUM_THREADS": "1",
        "TERM": "xterm",
        "COLUMNS": "100",
    }
    process = subprocess.Popen(
        ["make", "run", "CORES=2", *arguments],
        cwd=checkout,
        env=environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    parts = []
    try:
        while part := os.read(ours, 65536):
            parts.append(part)
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    text = b"".join(parts).decode()
    return process.wait(300), re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text).replace("\r", "")


def test_a_log_gets_short_lines_and_the_end_says_what_to_try(checkout):
    done = make(checkout)
    assert done.returncode == 0, done.stdout
    said = done.stdout
    assert "results/logs/scenes/{dataset,tower,encode,captioner,pseudo_queries," in said.split("Building DAG")[0]
    assert "Workflow Progress" not in said and "python -m grace tower" not in said
    assert max(map(len, said.splitlines())) < 200
    assert re.search(r"^1 of \d+ steps", said, re.MULTILINE), said
    assert "R@1" in said and "structured" in said, said
    assert said.splitlines()[-2:] == [
        f"Report: {checkout}/results/report/index.html",
        'Search: .venv/bin/python -m grace search "a red circle" --system results/scenes/atomic/seed0 --picture found.png',
    ]
    (checkout / ".venv/bin/grace").touch()
    again = make(checkout)
    assert again.returncode == 0 and "Nothing to be done" in again.stdout, again.stdout
    assert again.stdout.splitlines()[-1].startswith("Search: .venv/bin/grace search")


def test_a_configuration_of_ones_own_has_its_own_table_and_paths(checkout):
    (checkout / "mine.yaml").write_text(yaml.safe_dump({"output": "my results", "schemes": ["numeric"]}))
    (checkout / "seeds.yaml").write_text(yaml.safe_dump({"seeds": [3]}))
    done = make(checkout, "CONFIG=mine.yaml seeds.yaml")
    assert done.returncode == 0, done.stdout
    assert (checkout / "my results/scenes/numeric/seed3/model").is_dir() and not (checkout / "results").exists()
    assert "tail -n 1 -F 'my results/logs/scenes/'{" in done.stdout and "numeric/seed3/{train,retrieve}" in done.stdout
    assert "R@1" in done.stdout
    report, search = done.stdout.splitlines()[-2:]
    assert report == f"Report: {checkout}/my results/report/index.html"
    assert search.endswith('--system "my results/scenes/numeric/seed3" --picture found.png')


def test_a_failed_stage_shows_its_log_and_no_table(checkout):
    stand_in(checkout / ".venv/bin", REAL + FAILS)
    done = make(checkout)
    assert done.returncode != 0
    assert "Error in rule encode" in done.stdout and "error: the disk is full" in done.stdout
    assert "Report:" not in done.stdout and "R@1" not in done.stdout


def test_a_configuration_that_is_not_valid_ends_before_the_workflow(checkout):
    (checkout / "mine.yaml").write_text("schemes: [nummeric]\n")
    done = make(checkout, "CONFIG=mine.yaml")
    assert done.returncode != 0
    assert "error: " in done.stdout and "nummeric" in done.stdout and "Building DAG" not in done.stdout
    assert "Traceback" not in done.stdout


def test_a_terminal_has_a_panel_and_a_failure_is_seen_below_it(checkout):
    code, said = on_a_terminal(checkout)
    assert code == 0, said
    assert "Workflow Progress" in said and "train model" in said and "Shell command" not in said
    assert said.index("Workflow Progress") < said.index("R@1") < said.index("Report: ")
    assert said.rstrip().endswith("--picture found.png")
    stand_in(checkout / ".venv/bin", REAL + FAILS)
    shutil.rmtree(checkout / "results")
    code, said = on_a_terminal(checkout)
    assert code != 0 and "Failed encode" in said and "error: the disk is full" in said and "Report: " not in said


def test_the_commands_are_there_for_whoever_asks(checkout):
    done = make(checkout, "VERBOSE=1")
    assert done.returncode == 0, done.stdout
    assert "python -m grace tower" in done.stdout and "reason: Missing output files" in done.stdout
