"""Verify downloaded files: against `grace/data/download/sources.csv`, and against their first download.

Reads and writes `{data}/archives/checksums.json`: {file: {bytes, sha256}}, recorded when a file is first downloaded and
enforced from then on, since the table of sources does not know every checksum. Part of `python -m grace download`.
"""

from __future__ import annotations

import hashlib
import tarfile
import zipfile
from pathlib import Path

from grace.data.download.sources import Source
from grace.system.errors import GraceError
from grace.system.files import read_json, write_json
from grace.system.progress import BYTES, progress

RECORD = "checksums.json"
CHUNK = 1 << 20


class WrongFile(Exception):
    """A file that is not the expected one; the message says how it differs."""


def verify(path: Path, source: Source, archives: Path) -> dict[str, int | str]:
    """Check the file `path` against everything known about `source`; return {bytes, sha256}.

    It must match the table of sources and the record in `archives/checksums.json`, and an archive must be a valid one;
    else raises `WrongFile`. Reads the whole file.
    """
    size = path.stat().st_size
    recorded = _recorded(archives).get(source.file, {})
    for expected, by_whom in ((source.size, "grace/data/download/sources.csv"), (recorded.get("bytes"), RECORD)):
        if expected is not None and size != expected:
            raise WrongFile(f"{size:,} bytes where {by_whom} says {expected:,}")
    if source.file.endswith(".zip") and not zipfile.is_zipfile(path):
        raise WrongFile("it is not a complete ZIP archive")
    if ".tar" in source.file and not _is_tar(path):
        raise WrongFile("it is not a TAR archive")
    sums = digests(path)
    for name, expected, by_whom in (
        ("sha256", source.sha256, "grace/data/download/sources.csv"),
        ("md5", source.md5, "grace/data/download/sources.csv"),
        ("sha256", recorded.get("sha256"), RECORD),
    ):
        if expected and sums[name] != expected:
            raise WrongFile(f"its {name} is {sums[name][:12]}... where {by_whom} says {expected[:12]}...")
    return {"bytes": size, "sha256": sums["sha256"]}


def record(source: Source, found: dict[str, int | str], archives: Path) -> None:
    """Record the checksum of a verified file, unless it is recorded already."""
    known = _recorded(archives)
    if source.file not in known:
        write_json(archives / RECORD, {**known, source.file: found})


def digests(path: Path) -> dict[str, str]:
    """sha256 and md5 (hex) of a file, in one pass."""
    sums = {"sha256": hashlib.sha256(), "md5": hashlib.md5(usedforsecurity=False)}
    size = path.stat().st_size
    with (
        open(path, "rb") as file,
        progress(total=size, desc=f"check {path.name}", unit=BYTES) as bar,
    ):
        while block := file.read(CHUNK):
            for one in sums.values():
                one.update(block)
            bar.update(len(block))
    return {name: one.hexdigest() for name, one in sums.items()}


def _recorded(archives: Path) -> dict[str, dict]:
    path = archives / RECORD
    if not path.exists():
        return {}
    known = read_json(path, "record of checksums")
    if not isinstance(known, dict) or not all(isinstance(entry, dict) for entry in known.values()):
        raise GraceError(f"record of checksums {path} must be an object of files; delete it to record them again")
    return known


def _is_tar(path: Path) -> bool:
    try:
        return tarfile.is_tarfile(path)
    except (OSError, EOFError):  # a gzip stream truncated in its header
        return False
