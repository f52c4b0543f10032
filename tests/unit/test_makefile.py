"""`make` deletes the environment and the results apart, and no document tells people to delete trained models."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "requirements/pins.toml", ROOT / "Makefile", *(ROOT / "docs").rglob("*.md")]


@pytest.fixture
def checkout(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in (".venv", "results", ".snakemake/conda", ".snakemake/metadata"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("target", "gone", "code"),
    [
        ("clean-env", {".venv", ".snakemake/conda"}, 0),
        ("clean-results", {"results"}, 0),
        ("clean", set(), 2),
    ],
)
def test_what_is_deleted(checkout, target, gone, code):
    done = subprocess.run(["make", target], cwd=checkout, text=True, capture_output=True, check=False)
    assert done.returncode == code, done.stderr
    names = {".venv", "results", ".snakemake/conda", ".snakemake/metadata"}
    assert {name for name in names if not (checkout / name).exists()} == gone
    assert code == 0 or ("clean-env" in done.stderr and "clean-results" in done.stderr)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_no_document_names_a_target_that_is_not_there(document):
    targets = set(re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split())
    named = {word for line in re.findall(r"`make ([a-z -]+)`", document.read_text()) for word in line.split()}
    assert named <= targets - {"clean"}


def test_make_alone_lists_every_target_and_variable():
    outside = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    done = subprocess.run(["make"], cwd=ROOT, env=outside, text=True, capture_output=True, check=True)
    assert done.stderr == ""
    listed = re.findall(r"^  make ([a-z-]+) +\S", done.stdout, re.MULTILINE)
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    assert sorted(listed) == sorted(set(targets) - {"help", "clean"})
    for variable in ("CONFIG", "CORES", "VERBOSE", "PYTHON"):
        assert re.search(rf"^  {variable} +\S", done.stdout, re.MULTILINE), variable
    assert next(line for line in done.stdout.splitlines() if line and line[0] != " ") == "Run"
    assert max(map(len, done.stdout.splitlines())) <= 120
