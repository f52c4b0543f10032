"""Running Snakemake on this repository in a folder of the test's own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
WITHOUT_NETWORK = Path(__file__).with_name("without_network.py")


STAND_IN = r"""#!/usr/bin/env bash
# python -m grace STAGE ... --output PATH ..., or the same behind a launcher: makes the outputs of the stage and nothing else
set -eu
while [[ $1 != -m ]]; do shift; done
[[ $2 == grace.training.launch ]] && while [[ $2 != grace ]]; do shift; done
stage=$3
@FIRST@
while [[ $1 != --output ]]; do shift; done
case $stage in
  baseline | retrieve) made=("$2"/{run.trec,retrieval.json,certificates.parquet}) ;;
  evaluate) made=("$2" "$(dirname "$2")/per_query.parquet") ;;
  report) made=("$2" "$(dirname "$2")"/{table.csv,recall.svg}) ;;
  trie | metrics | resolve) made=("$2") ;;
  *) made=("$2/made") ;;
esac
mkdir -p "$(dirname "${made[0]}")"
for file in "${made[@]}"; do date +%s%N > "$file"; done  # never twice the same: a small file of equal content reruns nothing
"""


def stand_in(folder: Path, first: str = "") -> Path:
    """A folder with a `python` that stands in for every stage; the shell lines `first` run before it makes anything."""
    (folder / "python").write_text(STAND_IN.replace("@FIRST@", first))
    (folder / "python").chmod(0o755)
    return folder


class Workflow:
    """Snakemake on config.yaml and overlays; everything is made in `folder`."""

    def __init__(self, folder: Path, programs: Path = Path(sys.executable).parent) -> None:
        self.folder, self.programs = folder, programs  # the jobs' `python` is the one in `programs`

    def overlay(self, name: str, values: dict) -> str:
        """Write an overlay; return its path."""
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(values))
        return str(path)

    def __call__(
        self, *arguments: str, overlays: tuple[str, ...] = (), cores: int = 2, network: bool = True
    ) -> subprocess.CompletedProcess:
        """Run it; without a `network` the exit code is 77 where this machine cannot be without."""
        command = [] if network else [sys.executable, str(WITHOUT_NETWORK)]
        command += [sys.executable, "-m", "snakemake", "--directory", str(self.folder), "--cores", str(cores)]
        command += arguments
        if overlays:
            command += ["--configfile", *overlays]
        path = f"{self.programs}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, timeout=900)

    def planned(self, *arguments: str, overlays: tuple[str, ...] = ()) -> dict[str, int]:
        """{stage: number of jobs} of a dry run."""
        done = self("-n", *arguments, overlays=overlays)
        assert done.returncode == 0, done.stdout + done.stderr
        return jobs(done.stdout + done.stderr)


# rules whose name is not that of their stage
STAGE_OF = {
    "assign_identifiers": "identifiers",
    "build_trie": "trie",
    "train_model": "train",
    "retrieve_images": "retrieve",
    "evaluate_system": "evaluate",
}
TARGETS = {"all", "data", "configuration", *STAGE_OF.values()}


def jobs(text: str) -> dict[str, int]:
    """{stage: number of jobs} of Snakemake's table, without targets, the rule that writes the configuration, and the total."""
    table = re.search(r"Job stats:\njob +count\n[- ]+\n(.*?)\n\n", text, re.DOTALL)
    if table is None:
        assert "Nothing to be done" in text, text
        return {}
    found = {name: int(count) for name, count in (line.split() for line in table.group(1).splitlines())}
    return {STAGE_OF.get(name, name): count for name, count in found.items() if name not in {*TARGETS, "total"}}


@pytest.fixture(scope="module")
def workflow_in() -> Callable[[Path], Workflow]:
    return Workflow


@pytest.fixture(scope="module")
def finished(workflow_in, tmp_path_factory) -> Workflow:
    """A finished run of stand-ins on the tiny configuration."""
    workflow = workflow_in(tmp_path_factory.mktemp("finished"), stand_in(tmp_path_factory.mktemp("programs")))
    done = workflow(overlays=("config/tiny.yaml",))
    assert done.returncode == 0, done.stdout + done.stderr
    return workflow


@pytest.fixture
def copy(finished, workflow_in, tmp_path) -> Workflow:
    """A copy of that run, for a test that changes it."""
    shutil.copytree(finished.folder, tmp_path / "copy")
    return workflow_in(tmp_path / "copy", finished.programs)
