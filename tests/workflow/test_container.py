"""`--software-deployment-method apptainer`: every job runs in the container of envs/grace.def. Apptainer is a stand-in here.

The stand-in answers as apptainer does and runs the command without a container; whether the definition builds: tests/package.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.workflow.conftest import stand_in

ROOT = Path(__file__).resolve().parents[2]
# apptainer [--quiet ...] exec --home DIR [options] IMAGE bash -c COMMAND
APPTAINER = r"""#!/usr/bin/env bash
if [[ $1 == --version ]]; then echo "apptainer version 1.3.4"; exit; fi
while [[ $1 != exec ]]; do shift; done
while [[ $1 != *.sif ]]; do shift; done
[[ -f $1 ]] || { echo "FATAL: could not open image $1" >&2; exit 255; }
echo "$1" >> contained
shift
exec "$@"
"""


@pytest.fixture
def checkout(tmp_path) -> Path:
    """What of the repository the workflow needs, so that an image can stand in its envs/."""
    for name in ("Snakefile", "config.yaml"):
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("rules", "envs", "profiles"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "programs").mkdir()
    stand_in(tmp_path / "programs")
    (tmp_path / "programs/apptainer").write_text(APPTAINER)
    (tmp_path / "programs/apptainer").chmod(0o755)
    return tmp_path


def run(checkout: Path, *arguments: str) -> subprocess.CompletedProcess:
    path = f"{checkout / 'programs'}{os.pathsep}{os.environ['PATH']}"
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--configfile", str(ROOT / "config/tiny.yaml")]
    return subprocess.run(
        [*command, *arguments], cwd=checkout, text=True, capture_output=True, timeout=600, check=False,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def test_an_image_that_is_missing_is_named_with_the_command_that_builds_it(checkout):
    done = run(checkout, "-n", "--software-deployment-method", "apptainer")
    assert done.returncode != 0
    assert f"apptainer build {checkout}/envs/grace.sif {checkout}/envs/grace.def" in done.stdout + done.stderr
    assert run(checkout, "-n").returncode == 0  # without a container there is nothing to build


def test_every_job_runs_in_the_container(checkout):
    (checkout / "envs/grace.sif").write_text("")
    done = run(checkout, "--software-deployment-method", "apptainer")
    assert done.returncode == 0, done.stdout + done.stderr
    images = (checkout / "contained").read_text().split()
    assert set(images) == {str(checkout / "envs/grace.sif")}
    assert len(images) == sum(1 for _ in (checkout / "results-tiny/logs").rglob("*.log"))
