"""`python -m grace provenance FILE`: show how a file was made, back to the sources.

Reads the sidecars of FILE, of its inputs, of their inputs and so on; writes nothing. A file read by several stages is shown
in full only once.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grace.records.sidecars.sidecar import find_sidecar, output_of, read_sidecar, recorded_digest, resolved, sidecar_of
from grace.system.errors import GraceError
from grace.system.files import need

SHOWN_VERSIONS = ("grace", "python", "torch", "deepspeed")


def chain(path: Path) -> Iterator[str]:
    """Yield lines of text: how `path` was made, with its inputs indented below it."""
    need(path, "file")
    sidecar = find_sidecar(path)
    if sidecar is None:
        raise GraceError(
            f"{path} has no provenance record, neither beside it nor in a parent folder; no stage recorded writing it"
        )
    yield from _told(output_of(sidecar), "", set())


def _told(output: Path, indent: str, told: set[Path]) -> Iterator[str]:
    sidecar = sidecar_of(output)
    record = read_sidecar(sidecar)
    if output in told:
        yield f"{indent}{output}: see above"
        return
    told.add(output)
    yield f"{indent}{output}"
    for line in _facts(output, record):
        yield f"{indent}  {line}"
    for name, entry in record["inputs"].items():
        path = resolved(sidecar, entry["path"])
        if sidecar_of(path).is_file():
            now = recorded_digest(path, read_sidecar(sidecar_of(path)))
            if now != entry["sha256"]:
                yield f"{indent}  {name} <- {path} sha256 {entry['sha256'][:16]}: made again since; the version read is gone"
                continue
            yield f"{indent}  {name} <-"
            yield from _told(path, indent + "    ", told)
        else:
            kind = "source" if path.exists() else "missing"
            yield f"{indent}  {name} <- {path} ({kind}) sha256 {entry['sha256'][:16]}"


def _facts(output: Path, record: dict[str, Any]) -> Iterator[str]:
    environment, machine = record["environment"], record["machine"]
    seed = "" if record.get("seed") is None else f", seed {record['seed']}"
    yield f"stage {record['stage']} (version {record.get('stage_version')}){seed}, sha256 {recorded_digest(output, record)[:16]}"
    named = f" {environment['name']}" if environment.get("name") else ""
    packages = ", ".join(f"{name} {record['versions'][name]}" for name in SHOWN_VERSIONS if name in record["versions"])
    yield f"environment {environment['kind']}{named} ({environment['prefix']}): {packages}"
    yield f"{record['finished']} on {machine['host']}, {record.get('seconds')} s, {record.get('peak_memory_mb')} MB"
