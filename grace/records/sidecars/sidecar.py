"""One sidecar: its location, reading and writing.

Keys: stage and its version, settings (the slice of the configuration), seed, inputs ({name: path relative to the sidecar's
folder, sha256 and, for a source, the manifest of its files}), outputs (a manifest, see `grace.records.sidecars.hashes`),
versions, code (sha256 of the package's source), environment, machine, started, finished, seconds, peak_memory_mb.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grace.records.secrets import masked
from grace.records.sidecars.hashes import FOLDER_SIDECAR, digest, manifest
from grace.system.errors import GraceError
from grace.system.files import read_json, write_json

FORMAT = "grace-provenance-1"
SUFFIX = f".{FOLDER_SIDECAR}"
KEYS = ("stage", "settings", "inputs", "outputs", "versions", "environment", "machine", "finished")


def sidecar_of(output: Path) -> Path:
    """The path of an output's sidecar."""
    return output / FOLDER_SIDECAR if output.is_dir() else output.with_name(output.name + SUFFIX)


def is_sidecar(path: Path) -> bool:
    return path.name == FOLDER_SIDECAR or path.name.endswith(SUFFIX)


def output_of(sidecar: Path) -> Path:
    """The output that a sidecar belongs to."""
    return sidecar.parent if sidecar.name == FOLDER_SIDECAR else sidecar.with_name(sidecar.name.removesuffix(SUFFIX))


def find_sidecar(path: Path) -> Path | None:
    """The sidecar of an output, or of the output folder that contains `path`."""
    candidates: Iterator[Path] = iter([sidecar_of(path), *(parent / FOLDER_SIDECAR for parent in path.parents)])
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def read_sidecar(path: Path) -> dict[str, Any]:
    record = read_json(path, "provenance record")
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise GraceError(f"provenance record {path} does not have the format {FORMAT}; make its output again")
    lacking = [key for key in KEYS if key not in record]
    if lacking:
        raise GraceError(f"provenance record {path} lacks {', '.join(lacking)}; make its output again")
    return record


def write_sidecar(output: Path, record: dict[str, Any]) -> None:
    """Write the sidecar of `output`; secrets from the environment are masked."""
    write_json(sidecar_of(output), masked({"format": FORMAT, **record}))


def recorded_digest(output: Path, record: dict[str, Any]) -> str:
    """The sha256 of an output according to its sidecar."""
    return digest(record["outputs"], folder=output.is_dir())


def file_digest(path: Path) -> str:
    """sha256 (hex) of a file; taken from its sidecar, without reading the file, if size and mtime match."""
    folder, own = path.parent / FOLDER_SIDECAR, path.with_name(path.name + SUFFIX)
    sidecar = next((place for place in (own, folder) if place.is_file()), None)
    known = read_sidecar(sidecar)["outputs"] if sidecar else None
    return manifest(path, known=known)[path.name]["sha256"]


def seen_from(sidecar: Path, path: Path) -> str:
    """`path` as written in the sidecar: a relative path becomes relative to its folder, since results may be moved."""
    return str(path) if path.is_absolute() else os.path.relpath(path, sidecar.parent)


def resolved(sidecar: Path, written: str) -> Path:
    """The path of an input written in a sidecar, relative to the current folder."""
    return Path(os.path.normpath(sidecar.parent / written))


def is_set_aside(path: Path) -> bool:
    """Whether a path belongs to an output kept until it is remade (`grace.records.sidecars.last_good`)."""
    return any(part.startswith(".") and part.endswith(".last") for part in path.parts)
