"""A stage that fails leaves its last good output in place, and runs again the next time."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from grace.system.files import MARKER
from tests.workflow.conftest import stand_in

ROOT = Path(__file__).resolve().parents[2]
TINY = "config/tiny.yaml"
# python -m grace STAGE ... --output PATH ...; a stage that the file `fails` names fails, one that `hangs` names hangs
FIRST = r"""[[ $stage == ended ]] && exit "$4"
[[ $(cat fails) == "$stage" ]] && exit 2
[[ $(cat hangs) == "$stage" ]] && { touch hanging; exec sleep 60; }
"""
RULES = {"train": "train_model", "retrieve": "retrieve_images", "evaluate": "evaluate_system"}


@pytest.fixture(scope="module")
def finished(workflow_in, tmp_path_factory):
    programs = stand_in(tmp_path_factory.mktemp("programs"), FIRST)
    workflow = workflow_in(tmp_path_factory.mktemp("finished"), programs)
    for name in ("fails", "hangs"):
        (workflow.folder / name).write_text("")
    done = workflow(overlays=(TINY,))
    assert done.returncode == 0, done.stdout + done.stderr
    return workflow


@pytest.fixture
def workflow(finished, workflow_in, tmp_path):
    shutil.copytree(finished.folder, tmp_path / "copy")
    return workflow_in(tmp_path / "copy", finished.programs)


def outputs(workflow) -> dict[str, str]:
    """{path: content} of what the stages made; logs and times apart."""
    folder = workflow.folder / "results-tiny"
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".snakemake_timestamp" and not {"logs", "benchmarks"} & {*path.parts}
    }


@pytest.mark.parametrize("stage", ["dataset", "encode", "train", "retrieve", "evaluate", "report"])
def test_a_failed_stage_leaves_its_last_output(workflow, stage):
    before = outputs(workflow)
    (workflow.folder / "fails").write_text(stage)
    done = workflow("-R", RULES.get(stage, stage), overlays=(TINY,))
    assert done.returncode != 0 and outputs(workflow) == before
    assert stage in workflow.planned(overlays=(TINY,)), "the old output was taken for the new one"
    (workflow.folder / "fails").write_text("")
    done = workflow(overlays=(TINY,))
    assert done.returncode == 0, done.stdout + done.stderr
    after = outputs(workflow)
    assert after.keys() == before.keys() and after != before
    assert workflow.planned(overlays=(TINY,)) == {}


def test_a_stage_of_a_killed_run_that_then_fails_leaves_its_last_output(workflow):
    before = outputs(workflow)
    (workflow.folder / "hangs").write_text("train")
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--directory",
        str(workflow.folder),
        "--cores",
        "1",
        "-R",
        "train_model",
    ]
    environment = {**os.environ, "PATH": f"{workflow.programs}{os.pathsep}{os.environ['PATH']}"}
    run = subprocess.Popen(
        [*command, "--configfile", TINY], cwd=ROOT, env=environment, start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    while not (workflow.folder / "hanging").exists():
        assert run.poll() is None
        time.sleep(0.05)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    (workflow.folder / "hangs").write_text("")
    (workflow.folder / "fails").write_text("train")
    assert workflow("--unlock", overlays=(TINY,)).returncode == 0
    assert workflow(overlays=(TINY,)).returncode != 0
    assert outputs(workflow) == before and "train" in workflow.planned(overlays=(TINY,))


def draw(folder: Path, numbers: range) -> str:
    """Draw a photo a number; return their captions as lines of a table."""
    colours, shapes = ("red", "green", "blue", "white"), ("rectangle", "ellipse")
    lines = []
    for number in numbers:
        colour, shape = colours[number % 4], shapes[number // 4 % 2]
        image = Image.new("RGB", (48, 48), (number, 40, 40))
        getattr(ImageDraw.Draw(image), shape)((8 + number % 5, 8, 36, 36), fill=colour)
        image.save(folder / f"{number}.png")
        lines += [f"{number}.png,a {colour} {shape} number {number}", f"{number}.png,{shape} in {colour}"]
    return "".join(f"{line}\n" for line in lines)


@pytest.mark.slow
def test_photos_that_cannot_be_used_do_not_break_a_search(workflow_in, tmp_path):
    """The data set is not made again, so the trained system still answers from the one that it knows."""
    workflow, photos = workflow_in(tmp_path), tmp_path / "photos"
    photos.mkdir()
    table = tmp_path / "captions.csv"
    table.write_text("file,caption\n" + draw(photos, range(40)))
    mine = {
        "dataset": {
            "name": "mine", "source": "folder",
            "folder": {"images": "photos", "captions": "captions.csv", "test_share": 0.3},
        },
        "schemes": ["atomic"], "pseudo_queries": {"source": "nearest", "per_image": 2},
        "tower": {"scratch": {"steps": 5, "batch_size": 8}},
        "train": {"start_from": "scratch", "steps": 5, "atomic": {"steps": 5, "start_from": None}},
    }  # fmt: skip
    overlays = (TINY, workflow.overlay("mine", mine))
    done = workflow(overlays=overlays)
    assert done.returncode == 0, done.stdout + done.stderr

    def search() -> str:
        command = [
            sys.executable,
            "-m",
            "grace",
            "search",
            "a red ellipse",
            "--top",
            "5",
            "--system",
            "results-tiny/mine/atomic",
        ]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
        found = subprocess.run(command, cwd=tmp_path, env=environment, text=True, capture_output=True, check=False)
        assert found.returncode == 0, found.stderr
        return found.stdout

    before = search()
    for number in range(40, 45):
        (photos / f"{number}.png").write_text("no picture")
    with open(table, "a") as file:
        file.write("".join(f"{number}.png,a broken one\n" for number in range(40, 45)))
    done = workflow(overlays=overlays)
    assert done.returncode != 0 and "max_skipped" in done.stdout + done.stderr, done.stdout + done.stderr
    assert search() == before and re.search(r"\d+\.png", before)
    plan = workflow.planned(overlays=overlays)
    assert plan["dataset"] == 1, "the failed stage would not run again"
    hidden = [
        path for path in (tmp_path / "results-tiny").rglob(".*") if path.name not in (".snakemake_timestamp", MARKER)
    ]
    assert hidden == []
