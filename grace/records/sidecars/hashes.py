"""Hashes of files and folders, which the sidecars record and compare.

A manifest is {path inside the folder, with slashes: {"sha256", "bytes", "mtime_ns"}}; for a single file it has one entry, the
file's name. With the size and mtime, the next stage need not read an unchanged file again; `python -m grace verify` reads
everything.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from grace.system.errors import GraceError

FOLDER_SIDECAR = "provenance.json"
# Not content: the record itself, and Snakemake's timestamp in an output folder.
IGNORED = {FOLDER_SIDECAR, ".snakemake_timestamp"}

Manifest = dict[str, dict[str, Any]]


def manifest(path: Path, known: Mapping[str, Any] | None = None, files: Iterable[str] | None = None) -> Manifest:
    """Hash the file `path`, or every file of the folder `path` (only `files` of it, if given).

    A file with the same size and mtime as its entry in `known` is assumed to be unchanged.
    """
    if path.is_dir():
        names = sorted(files) if files is not None else sorted(_names(path))
        places = {name: path / name for name in names}
    else:
        places = {path.name: path}

    def one(item: tuple[str, Path]) -> dict[str, Any]:
        return _entry(item[1], (known or {}).get(item[0]))

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(places, pool.map(one, places.items()), strict=True))


def digest(entries: Manifest, folder: bool) -> str:
    """One sha256 (hex) for a manifest: the file's own or, for a folder, that of its sorted lines `sha256  name`."""
    if not folder:
        return next(iter(entries.values()))["sha256"]
    lines = "".join(f"{entry['sha256']}  {name}\n" for name, entry in sorted(entries.items()))
    return hashlib.sha256(lines.encode("utf-8", "surrogateescape")).hexdigest()


def differences(recorded: Manifest, found: Manifest) -> dict[str, str]:
    """{name: "changed", "missing" or "added"} for every file that differs from its record."""
    out = {name: "missing" for name in recorded.keys() - found.keys()}
    out |= {name: "added" for name in found.keys() - recorded.keys()}
    common = recorded.keys() & found.keys()
    out |= {name: "changed" for name in common if recorded[name]["sha256"] != found[name]["sha256"]}
    return dict(sorted(out.items()))


def _names(folder: Path) -> Iterable[str]:
    for path in folder.rglob("*"):
        if path.is_file() and path.name not in IGNORED:
            yield path.relative_to(folder).as_posix()


def _entry(path: Path, known: Mapping[str, Any] | None) -> dict[str, Any]:
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            if known and (known["bytes"], known["mtime_ns"]) == (status.st_size, status.st_mtime_ns):
                return dict(known)
            return {
                "sha256": hashlib.file_digest(file, "sha256").hexdigest(),
                "bytes": status.st_size,
                "mtime_ns": status.st_mtime_ns,
            }
    except FileNotFoundError:
        raise GraceError(f"{path} is missing, or was deleted while being read; make it again") from None
