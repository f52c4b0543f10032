"""The jobs that made a results folder, according to the records beside their outputs.

Part of `python -m grace report`. Reads {results}/*.provenance.json and {results}/{dataset}/**/*provenance.json.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from grace.records.sidecars.sidecar import find_sidecar, is_set_aside, is_sidecar, output_of, read_sidecar, resolved


@dataclass(frozen=True)
class Job:
    """One run of a stage, as recorded."""

    stage: str
    place: Path
    """the folder that it wrote, or the folder of its output files"""
    seconds: float
    memory_mb: float
    """peak memory of the job's own process, MB"""
    environment: str
    """name of the conda environment, or the kind of any other"""
    reads: frozenset[str]
    """stages whose outputs it read"""


def read_jobs(results: Path, dataset: str) -> list[Job]:
    """The jobs that made the results of `dataset`; files that one job wrote to the same folder count as one."""
    found: dict[tuple[str, Path], Job] = {}
    for path in sorted([*results.glob("*.provenance.json"), *(results / dataset).rglob("*provenance.json")]):
        if not is_sidecar(path) or is_set_aside(path):
            continue
        record, output = read_sidecar(path), output_of(path)
        place = output if output.is_dir() else output.parent
        sources = (find_sidecar(resolved(path, entry["path"])) for entry in record["inputs"].values())
        reads = frozenset(read_sidecar(source)["stage"] for source in sources if source) - {record["stage"]}
        about = record["environment"]
        environment = about.get("name") or about.get("kind") or ""
        found[record["stage"], place] = Job(
            record["stage"], place, record.get("seconds", 0.0), record.get("peak_memory_mb", 0.0), environment, reads
        )
    return list(found.values())
