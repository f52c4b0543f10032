"""The workflow as a module of another one, from another folder: twice, with two configurations and prefixes, leaking nothing."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.workflow.conftest import stand_in

ROOT = Path(__file__).resolve().parents[2]
TINY = yaml.safe_load((ROOT / "config/tiny.yaml").read_text())
FIRST = {**TINY, "schemes": ["numeric"], "train": {**TINY["train"], "start_from": "scratch"}}
SECOND = {**TINY, "schemes": ["atomic"], "seeds": [3]}

# The importer has rules of the names of ours, its own default target and its own GPUs.
IMPORTER = f"""
import yaml

rule all:
    input: "first/results-tiny/report/index.html", "second/results-tiny/metrics.json", "mine.txt"

module first:
    snakefile: {str(ROOT / "Snakefile")!r}
    config: yaml.safe_load(open("first.yaml"))
    prefix: "first"

use rule * from first as first_*

module second:
    snakefile: {str(ROOT / "Snakefile")!r}
    config: yaml.safe_load(open("second.yaml"))
    prefix: "second"

use rule * from second as second_*

rule train:
    output: "mine.txt"
    shell: "env > {{output}}"
"""


def planned(done: subprocess.CompletedProcess) -> dict[str, int]:
    """{rule: jobs} of a dry run."""
    assert done.returncode == 0, done.stdout + done.stderr
    return {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", done.stdout + done.stderr, re.MULTILINE)}


class Importer:
    """Another workflow, in a folder of its own, that uses this one."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder, self.programs = folder, programs
        (folder / "Snakefile").write_text(IMPORTER)
        (folder / "first.yaml").write_text(yaml.safe_dump(FIRST))
        (folder / "second.yaml").write_text(yaml.safe_dump(SECOND))

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess:
        path = f"{self.programs}{os.pathsep}{os.environ['PATH']}"
        return subprocess.run(
            [sys.executable, "-m", "snakemake", "--cores", "2", "-p", *arguments], cwd=self.folder, text=True,
            capture_output=True, timeout=900, check=False, env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip


@pytest.fixture
def importer(tmp_path):
    (tmp_path / "programs").mkdir()
    (tmp_path / "work").mkdir()
    return Importer(tmp_path / "work", stand_in(tmp_path / "programs"))


def test_two_configurations_are_planned_under_their_prefixes(importer):
    done = importer("-n")
    said = done.stdout + done.stderr
    plan = planned(done)
    assert plan["first_train_model"] == plan["second_train_model"] == plan["train"] == 1 and plan["first_report"] == 1
    paths = [line for line in said.splitlines() if line.startswith(("    input:", "    output:", "    log:"))]
    assert paths and not [line for line in paths if " results-tiny" in line or ",results" in line], paths
    commands = [line for line in said.splitlines() if "-m grace " in line]
    assert commands and not [line for line in commands if " results-tiny" in line or "=results-tiny" in line]


def test_they_run_and_leave_the_importer_alone(importer):
    done = importer()
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(path.name for path in importer.folder.iterdir()) == [
        ".snakemake", "Snakefile", "first", "first.yaml", "mine.txt", "second", "second.yaml",
    ]  # fmt: skip
    environment = (importer.folder / "mine.txt").read_text()
    ours = [
        line
        for line in environment.splitlines()
        if line.startswith("GRACE") and line not in map("=".join, os.environ.items())
    ]
    assert not ours, "the importer's own jobs got variables of ours"
    again = importer()
    assert "Nothing to be done" in again.stdout + again.stderr


def test_the_importers_default_target_and_names_stay(importer):
    """Its `train` may be forced, which of ours is refused in words."""
    done = importer("-n", "-R", "train")
    plan = planned(done)
    assert plan["train"] == 1 and plan["first_train_model"] == 1 and plan["all"] == 1


def test_gpus_of_the_importer_are_its_own(importer):
    """A bound that we set for our own trainings would stop a job of the importer's that asks for more."""
    (importer.folder / "first.yaml").write_text(yaml.safe_dump({**FIRST, "resources": {"gpus": 2, "processes": 2}}))
    (importer.folder / "Snakefile").write_text(IMPORTER.replace("rule train:", "rule train:\n    resources: gpu=7"))
    done = importer("mine.txt")
    assert done.returncode == 0 and (importer.folder / "mine.txt").exists(), done.stdout + done.stderr


def test_ones_own_files_and_downloads(importer):
    """A file that the user names stays where it is; what is downloaded goes below the prefix."""
    (importer.folder / "queries.jsonl").write_text("")
    given = {**FIRST, "pseudo_queries": {"source": "file", "file": "queries.jsonl"}}
    dataset = {"name": "coco", "source": "karpathy", "karpathy": {"download": "coco"}}
    (importer.folder / "first.yaml").write_text(yaml.safe_dump({**given, "dataset": dataset}))
    (importer.folder / "Snakefile").write_text(
        IMPORTER.replace("first/results-tiny/report/index.html", "first/results-tiny/metrics.json")
    )
    done = importer("-n")
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "download coco --data first/data" in said and "--json first/data/coco/dataset_coco.json" in said
    assert "first/queries.jsonl" not in said and "queries.jsonl" in said


def test_from_another_folder(workflow_in, tmp_path):
    """`-s ... -d elsewhere`: everything is made there, also the configuration's relative paths."""
    programs = tmp_path / "programs"
    programs.mkdir()
    workflow = workflow_in(tmp_path / "elsewhere", stand_in(programs))
    workflow.folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "-d", str(workflow.folder), "--cores", "2",
         "--configfile", str(ROOT / "config/tiny.yaml")],
        cwd=tmp_path, text=True, capture_output=True, timeout=600, check=False,
        env={**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(path.name for path in workflow.folder.iterdir()) == [".snakemake", "results-tiny"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "programs"]


@pytest.mark.slow
def test_a_module_computes_what_the_workflow_itself_does(importer, workflow_in, tmp_path):
    """The stages for real, once each: the same scores in the importer's folder as from the Snakefile."""
    importer.programs = Path(sys.executable).parent
    done = importer("second/results-tiny/metrics.json")
    assert done.returncode == 0, done.stdout + done.stderr
    own = workflow_in(tmp_path / "own")
    own.folder.mkdir()
    plain = own("results-tiny/metrics.json", overlays=("config/tiny.yaml", own.overlay("second", SECOND)))
    assert plain.returncode == 0, plain.stdout + plain.stderr
    rows = [
        json.loads((path / "results-tiny/metrics.json").read_text())
        for path in (importer.folder / "second", own.folder)
    ]
    for row in (*rows[0], *rows[1]):
        row.pop("seconds", None)
    assert rows[0] == rows[1]
