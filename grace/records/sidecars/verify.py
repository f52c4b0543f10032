"""`python -m grace verify results/`: hash every recorded file again, and report whatever differs from its record.

Reads all sidecars in a folder and every file they refer to; writes nothing. Reports outputs that were changed, deleted or
added to; outputs without a record; and inputs remade, or sources changed, after a stage read them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grace.records.sidecars.hashes import IGNORED, differences, digest, manifest
from grace.records.sidecars.sidecar import (
    is_set_aside,
    is_sidecar,
    output_of,
    read_sidecar,
    recorded_digest,
    resolved,
    sidecar_of,
)
from grace.system.errors import GraceError
from grace.system.files import MARKER, need

# Not results: logs and times of jobs, and states that an unfinished training resumes from.
UNRECORDED = ("logs", "benchmarks")
STATES = ("training_state", "captioner_state")


def verify(results: Path) -> tuple[int, list[str]]:
    """(number of files hashed, list of problems) for a results folder."""
    need(results, "results folder")
    sidecars = sorted(
        path for path in results.rglob("*") if is_sidecar(path) and path.is_file() and not is_set_aside(path)
    )
    if not sidecars:
        raise GraceError(
            f"{results} contains no provenance records; it is not a results folder, or was made by an older version"
        )
    hashed, problems, covered = 0, [], set()
    for sidecar in sidecars:
        record, output = read_sidecar(sidecar), output_of(sidecar)
        covered.add(output)
        hashed += len(record["outputs"])
        problems += _outputs(output, record)
        problems += _inputs(sidecar, record)
    return hashed, problems + list(_without_record(results, covered))


def _outputs(output: Path, record: dict[str, Any]) -> Iterator[str]:
    if not output.exists():
        yield f"{output}: missing (stage {record['stage']} wrote it)"
        return
    for name, what in differences(record["outputs"], manifest(output)).items():
        yield f"{output / name if output.is_dir() else output}: {what} after the stage {record['stage']} wrote it"


def _inputs(sidecar: Path, record: dict[str, Any]) -> Iterator[str]:
    for name, entry in record["inputs"].items():
        path = resolved(sidecar, entry["path"])
        of = f"{output_of(sidecar)}: its input {name} ({path})"
        if sidecar_of(path).is_file():
            if recorded_digest(path, read_sidecar(sidecar_of(path))) != entry["sha256"]:
                yield f"{of} was made again after the stage {record['stage']} read it; run that stage again"
        elif "files" not in entry:
            yield f"{of} is missing, or lost its record"
        elif not path.exists():
            yield f"{of} is missing"
        else:
            present = [file for file in entry["files"] if not path.is_dir() or (path / file).is_file()]
            if digest(manifest(path, files=present), path.is_dir()) != entry["sha256"]:
                yield f"{of} was changed after the stage {record['stage']} read it"


def _without_record(results: Path, covered: set[Path]) -> Iterator[str]:
    for path in sorted(results.rglob("*")):
        if not path.is_file() or is_sidecar(path) or path.name in IGNORED or path.name == MARKER:
            continue
        parts = path.relative_to(results).parts
        if is_set_aside(path):
            continue
        if parts[0] in UNRECORDED or any(part in STATES for part in parts):
            continue
        if path not in covered and not covered.intersection(path.parents):
            yield f"{path}: no provenance record; no stage recorded writing it"
