"""The workflow's overhead: the wall time of a run during which no stage is running.

Runs `snakemake` from scratch in a folder, then takes the running times of every stage from the sidecars of its outputs. A
stage's time starts once its code is imported and ends when its outputs are hashed; importing torch counts as overhead, as do
Snakemake's start, planning and bookkeeping between jobs. Time with two running stages counts once. Keep both cores free while
it runs.

    python -m benchmarks.overhead --folder /tmp/run                             the default run (6 to 12 minutes)
    python -m benchmarks.overhead --folder /tmp/run --configfile config/tiny.yaml
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from datetime import datetime
from pathlib import Path

from grace.records.sidecars.sidecar import is_sidecar, read_sidecar

ROOT = Path(__file__).resolve().parents[1]


def run(folder: Path, overlays: list[str], cores: str) -> float:
    """Wall time in seconds of a complete run in an empty folder."""
    command = [sys.executable, "-m", "snakemake", "--directory", str(folder), "--cores", cores]
    if overlays:
        command += ["--configfile", *overlays]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    began = time.perf_counter()
    subprocess.run(command, cwd=ROOT, env={**os.environ, "PATH": path}, check=True)
    return time.perf_counter() - began


def jobs(folder: Path) -> dict[str, list[tuple[float, float]]]:
    """{stage: (start, end) of every job, seconds since the epoch}; a job with several outputs counts once."""
    found: dict[str, set[tuple[float, float]]] = defaultdict(set)
    for path in folder.rglob("*provenance.json"):
        if is_sidecar(path):
            record = read_sidecar(path)
            began = datetime.fromisoformat(record["started"]).timestamp()
            found[record["stage"]].add((began, began + record["seconds"]))
    return {stage: sorted(spans) for stage, spans in found.items()}


def covered(spans: list[tuple[float, float]]) -> float:
    """Total length of the union of spans."""
    total, reached = 0.0, float("-inf")
    for began, ended in sorted(spans):
        total += max(0.0, ended - max(began, reached))
        reached = max(reached, ended)
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="an empty or new folder for the run")
    parser.add_argument("--configfile", nargs="*", default=[])
    parser.add_argument("--cores", default="all")
    given = parser.parse_args()
    if given.folder.exists() and any(given.folder.iterdir()):
        parser.error(f"{given.folder} is not empty, but the run must start from scratch")
    given.folder.mkdir(parents=True, exist_ok=True)
    wall = run(given.folder, given.configfile, given.cores)
    stages = jobs(given.folder)
    spans = [span for found in stages.values() for span in found]
    work = covered(spans)
    told = {
        "wall_seconds": round(wall, 1),
        "seconds_with_a_stage_at_work": round(work, 1),
        "sum_of_the_stages_seconds": round(sum(ended - began for began, ended in spans), 1),
        "overhead_percent_of_wall": round(100 * (wall - work) / wall, 1),
        "jobs": len(spans),
        "overhead_seconds_per_job": round((wall - work) / len(spans), 2),
        "stages": {stage: [round(ended - began, 1) for began, ended in found] for stage, found in stages.items()},
    }
    print(json.dumps(told, indent=2))


if __name__ == "__main__":
    main()
