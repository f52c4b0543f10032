"""Recording a stage: its inputs are checked and hashed before it works, its outputs after, and sidecars are written.

An input with a sidecar must still be what its stage wrote: an output edited by hand is refused, in words, by the first stage
that reads it. A stage that fails leaves no sidecar. Of a distributed run the first process records.

    with recorded("trie", reads={"identifiers": identifiers}, writes=[output], settings={}) as record: ...
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from grace.records.provenance import code_digest, environment, machine, versions
from grace.records.sidecars.hashes import Manifest, differences, digest, manifest
from grace.records.sidecars.last_good import forget
from grace.records.sidecars.sidecar import read_sidecar, seen_from, sidecar_of, write_sidecar
from grace.system.errors import GraceError
from grace.system.files import remove_leftovers
from grace.workflow.stages import STAGES


class Record:
    """The inputs of one stage: {name: (path, manifest, whether it is a folder, whether a stage made it)}."""

    def __init__(self) -> None:
        self.inputs: dict[str, tuple[Path, Manifest, bool, bool]] = {}

    def add(self, name: str, path: Path, files: Sequence[str] | None = None) -> None:
        """Hash an input (of a folder only `files`, if given); raise a `GraceError` if it was edited by hand."""
        if not path.exists():
            return  # the stage itself says what it lacks, in its own words
        sidecar = sidecar_of(path)
        made = sidecar.is_file()
        if made:
            record = read_sidecar(sidecar)
            found = manifest(path, known=record["outputs"])
            for file, what in differences(record["outputs"], found).items():
                raise GraceError(
                    f"{path / file if path.is_dir() else path} was {what} after the stage {record['stage']} wrote it; "
                    f"delete {path} to have it made again, or {sidecar} to take it as it is"
                )
        else:
            found = manifest(path, files=files)
        self.inputs[name] = (path, found, path.is_dir(), made)

    def add_photos(self, dataset: Path) -> None:
        """Check that the photos which the stage `dataset` looked at are still what they were, if it recorded any."""
        sidecar = sidecar_of(dataset)
        photos = read_sidecar(sidecar)["inputs"].get("images") if sidecar.is_file() else None
        if photos is None:
            return
        folder = Path(os.path.normpath(sidecar.parent / photos["path"]))
        found = manifest(folder, known=photos["files"], files=list(photos["files"]))
        for file in differences(photos["files"], found):
            raise GraceError(
                f"photo {folder / file} was changed after the stage dataset read it; put the old one back, or run "
                f"`snakemake --cores all -R dataset` to begin again with the new one"
            )
        self.inputs["images"] = (folder, found, True, False)

    def still_there(self) -> None:
        """Raise a `GraceError` if an input was written to while the stage read it."""
        for path, before, folder, _ in self.inputs.values():
            after = manifest(path, known=before, files=list(before) if folder else None)
            for file in differences(before, after):
                raise GraceError(
                    f"{path / file if folder else path} was changed while it was read; run the stage again"
                )

    def stated(self, sidecar: Path) -> dict[str, Any]:
        """The inputs as a sidecar states them; those that no stage made with the hashes of their files."""
        out = {}
        for name, (path, found, folder, made) in self.inputs.items():
            out[name] = {"path": seen_from(sidecar, path), "sha256": digest(found, folder)}
            if not made:
                out[name]["files"] = found
        return out


_current: ContextVar[Record | None] = ContextVar("current record", default=None)


def also_read(name: str, path: Path, files: Sequence[str] | None = None) -> None:
    """Add an input to the record of the stage that runs now: one that it knows only after it has begun (its photos)."""
    record = _current.get()
    if record is not None:
        record.add(name, path, files)


@contextmanager
def recorded(
    stage: str,
    *,
    reads: Mapping[str, Path | None],
    writes: Sequence[Path],
    settings: dict[str, Any],
    seed: int | None = None,
    photos_of: Path | None = None,
) -> Iterator[Record]:
    """Record the stage that runs inside: `writes` are its outputs, `photos_of` is the dataset whose photos it reads."""
    record = Record()
    if int(os.environ.get("RANK", 0)) != 0:
        yield record
        return
    began, started = time.perf_counter(), datetime.now(UTC)
    for name, path in {**reads, **_named_files(settings)}.items():
        if path is not None:
            record.add(name, Path(path))
    if photos_of is not None:
        record.add_photos(Path(photos_of))
    for output in map(Path, writes):
        remove_leftovers(output)
        if not output.is_dir():  # of an output that is about to be made anew, the old record is wrong
            sidecar_of(output).unlink(missing_ok=True)
    token = _current.set(record)
    try:
        yield record
    finally:
        _current.reset(token)
    record.still_there()
    facts = {
        "stage": stage,
        "stage_version": STAGES.get(stage),
        "settings": settings,
        "seed": settings.get("seed") if seed is None else seed,
        "versions": versions(),
        "code": code_digest(),
        "environment": environment(),
        "machine": machine(),
        "started": started.isoformat(timespec="milliseconds"),
        "finished": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "seconds": round(time.perf_counter() - began, 3),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    for output in map(Path, writes):
        write_sidecar(output, {**facts, "inputs": record.stated(sidecar_of(output)), "outputs": manifest(output)})
    for output in map(Path, writes):
        forget(output)


def _named_files(settings: Any, name: str = "") -> dict[str, Path]:
    """Files that settings name, by key: a table of pseudo-queries, weights to start from, a local model."""
    if isinstance(settings, dict):
        found: dict[str, Path] = {}
        for key, value in settings.items():
            found |= _named_files(value, f"{name}.{key}" if name else key)
        return found
    text = settings.removeprefix("local-dir:") if isinstance(settings, str) else ""
    looks_like_a_path = "/" in text or Path(text).suffix
    return {name: Path(text)} if looks_like_a_path and len(text) < 4096 and Path(text).exists() else {}
