"""The picture of the workflow is what the records say: boxes, arrows, times, and nothing where they contradict each other."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from grace.records.sidecars.sidecar import write_sidecar
from grace.report.jobs import Job, read_jobs
from grace.report.workflow import workflow_figure
from grace.system.files import write_json


def record(output: Path, stage: str, *reads: Path, seconds: float = 1.0) -> Path:
    """Write an output and the record of the stage that wrote it."""
    write_json(output, stage)
    facts = {key: {} for key in ("settings", "outputs", "versions", "machine", "finished")}
    inputs = {path.stem: {"path": str(path), "sha256": ""} for path in reads}
    environment = {"kind": "conda", "name": "grace-<infer>"}
    write_sidecar(
        output,
        {
            **facts,
            "stage": stage,
            "inputs": inputs,
            "environment": environment,
            "seconds": seconds,
            "peak_memory_mb": 300,
        },
    )
    return output


@pytest.fixture
def results(tmp_path) -> Path:
    """One data set's stages, two systems, and a stage of another data set."""
    world = tmp_path / "scenes"
    dataset = record(world / "dataset.json", "dataset", tmp_path / "source-without-record.json")
    tower = record(world / "tower/model.json", "tower", dataset, seconds=90)
    encode = record(world / "embeddings/a.json", "encode", dataset, tower)
    runs = [
        record(world / f"{name}/run.trec", "retrieve", dataset, encode, seconds=n) for n, name in enumerate("ab", 2)
    ]
    record(world / "a/retrieval.json", "retrieve", dataset, encode, seconds=2)  # of the same job as the run beside it
    record(tmp_path / "metrics.json", "metrics", *runs)
    record(tmp_path / "photos/dataset.json", "dataset")
    return tmp_path


def drawn(jobs: list[Job]) -> tuple[str, list[str], set[str]]:
    """(the SVG, texts in it, "b after a" of its arrows)."""
    svg = str(workflow_figure(jobs))
    tree = ElementTree.fromstring(svg)
    arrows = {
        f"{after.split(' after ')[0]} after {name}"
        for after in tree.find("desc").text.rstrip(".").split("; ")
        for name in after.split(" after ")[1].split(", ")
    }
    return svg, [text.text for text in tree.iter("text")], arrows


def shapes(svg: str) -> tuple[list[list[tuple[float, float]]], list[tuple[float, float, float, float]]]:
    """(points of every arrow, left, top, right and bottom of every box)."""
    lines, boxes = [], []
    for group in ElementTree.fromstring(svg).iter("g"):
        path = group.find("path")
        style = "" if path is None else path.get("style")
        points = (
            [] if path is None else [(float(x), float(y)) for x, y in re.findall(r"([\d.]+) ([\d.]+)", path.get("d"))]
        )
        if "stroke: var(--muted)" in style:
            assert len(group.findall("path")) == 2, "an arrow has a line and a head"
            lines.append(points)
        elif "fill: var(--soft)" in style:
            columns, rows = zip(*points, strict=True)
            boxes.append((min(columns), min(rows), max(columns), max(rows)))
    return lines, boxes


def test_a_job_is_one_whatever_number_of_files_it_wrote(results):
    jobs = read_jobs(results, "scenes")
    assert sorted(job.stage for job in jobs) == ["dataset", "encode", "metrics", "retrieve", "retrieve", "tower"]
    assert {job.stage: job.reads for job in jobs}["retrieve"] == {"dataset", "encode"}
    assert {job.memory_mb for job in jobs} == {300}


def test_boxes_arrows_and_times(results):
    svg, texts, arrows = drawn(read_jobs(results, "scenes"))
    for said in ("dataset", "tower", "1 min 30 s, grace-<infer>", "2 × 2.5 s, grace-<infer>", "report"):
        assert said in texts, said
    # dataset -> encode and dataset -> retrieve follow from others
    assert arrows == {
        *("tower after dataset", "encode after tower", "retrieve after encode", "metrics after retrieve"),
        "report after metrics",
    }
    lines, boxes = shapes(svg)
    assert (len(lines), len(boxes)) == (len(arrows), 6) and "<infer>" not in svg
    assert set(re.findall(r"var\(--(\w+)\)", svg)) == {"ink", "muted", "line", "soft"} and 'role="img"' in svg


def test_an_arrow_past_other_rows_meets_no_box():
    """a -> b -> c -> d -> g: e between a and d alone passes the row of c, f between a and g those of c and d."""

    def job(stage: str, *reads: str) -> Job:
        return Job(stage, Path(stage), 1.0, 1.0, "venv", frozenset(reads))

    jobs = [
        job("a"),
        job("b", "a"),
        job("c", "b"),
        job("d", "c", "e"),
        job("e", "a"),
        job("f", "a"),
        job("g", "d", "f"),
    ]
    svg, _, arrows = drawn(jobs)
    assert {"d after e", "g after f"} <= arrows
    lines, boxes = shapes(svg)
    assert len(lines) == len(arrows) and max(map(len, lines)) > 2
    for line in lines:
        for (x, y), (to_x, to_y) in pairwise(line):
            for share in np.linspace(0, 1, 50):
                at_x, at_y = x + share * (to_x - x), y + share * (to_y - y)
                for left, top, right, bottom in boxes:
                    assert not (left < at_x < right and top + 0.01 < at_y < bottom - 0.01)


def test_no_records_or_contradicting_ones_give_no_picture(tmp_path):
    assert read_jobs(tmp_path, "scenes") == [] and workflow_figure([]) is None
    there, back = (Job(a, Path(a), 1.0, 1.0, "venv", frozenset([b])) for a, b in ("xy", "yx"))
    assert workflow_figure([there, back]) is None
