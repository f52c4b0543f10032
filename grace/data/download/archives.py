"""Unpack untrusted ZIP and TAR archives safely.

Reads an archive and writes one file or one folder, completely or not at all. Members are never written to their own paths:
the wanted ones are selected by base name, so nothing is written outside the target. Raises a `GraceError` for a link, a
device, a path with `..`, an encrypted member, a duplicate name, and more files or bytes than allowed. Part of
`python -m grace download`.
"""

from __future__ import annotations

import fnmatch
import lzma
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from grace.system.errors import GraceError
from grace.system.files import replacing
from grace.system.progress import progress

BLOCK = 1 << 20


@dataclass(frozen=True)
class Bounds:
    """Limits on what an archive may unpack to."""

    files: int
    size: int
    """total bytes of all files"""
    at_least: int = 1
    """with fewer files the archive is truncated, or the wrong one"""


@dataclass(frozen=True)
class Member:
    """A file in an archive: its path there, its declared size, and its handle for opening it."""

    path: str
    size: int
    handle: Any


def unpack_file(archive: Path, take: str, target: Path, bounds: Bounds) -> None:
    """Write the one member of `archive` whose base name matches `take` to the file `target`."""
    with _members(archive, take, bounds) as (members, open_member):
        found = list(members)
        if len(found) != 1:
            raise GraceError(f"archive {archive} contains {len(found)} files {take}, expected one; fetch it again")
        with replacing(target) as temporary, open_member(found[0]) as source:
            _copy(source, temporary, bounds.size, archive)


def unpack_folder(archive: Path, take: str, target: Path, bounds: Bounds) -> int:
    """Write the members of `archive` whose base names match `take` into the new folder `target`; return their number.

    `target` may be an empty folder; it is renamed into place once everything is unpacked.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    count, size = 0, 0
    try:
        with (
            _members(archive, take, bounds) as (members, open_member),
            progress(desc=f"unpack {archive.name}", unit="files") as bar,
        ):
            for member in members:
                place = temporary / PurePosixPath(member.path).name
                if place.exists():
                    raise GraceError(
                        f"archive {archive} contains the name {place.name} twice; it is not the expected one"
                    )
                count += 1
                if count > bounds.files:
                    raise GraceError(f"archive {archive} contains more than {bounds.files:,} files {take}; refused")
                with open_member(member) as source:
                    size += _copy(source, place, bounds.size - size, archive)
                bar.update()
        if count < bounds.at_least:
            raise GraceError(f"archive {archive} contains {count:,} files {take}, expected {bounds.at_least:,}")
        temporary.chmod(0o755)
        if target.is_dir():
            target.rmdir()  # always empty: the caller has checked
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return count


@contextmanager
def _members(archive: Path, take: str, bounds: Bounds) -> Iterator[tuple[Iterator[Member], Any]]:
    """The wanted members of an archive, each checked as it is read, and a function that opens one."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file:
                listed = _zip_members(file, archive, take)
                announced = sum(member.size for member in listed)
                if announced > bounds.size:
                    raise GraceError(
                        f"archive {archive} unpacks to {announced:,} bytes; at most {bounds.size:,} are allowed"
                    )
                yield iter(listed), lambda member: file.open(member.handle)
        else:
            with tarfile.open(archive, mode="r:*") as file:
                yield _tar_members(file, archive, take), lambda member: file.extractfile(member.handle)
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, NotImplementedError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise GraceError(f"archive {archive} is broken ({said}); fetch it again") from None


def _zip_members(file: zipfile.ZipFile, archive: Path, take: str) -> list[Member]:
    found = []
    for info in file.infolist():
        _check_path(info.filename, archive)
        kind = stat.S_IFMT(info.external_attr >> 16)
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            raise GraceError(f"archive {archive} contains {info.filename!r}, a link or a device; refused")
        if info.is_dir() or not _wanted(info.filename, take):
            continue
        if info.flag_bits & 1:
            raise GraceError(f"archive {archive} is encrypted; unpack it yourself")
        found.append(Member(info.filename, info.file_size, info))
    return found


def _tar_members(file: tarfile.TarFile, archive: Path, take: str) -> Iterator[Member]:
    for info in file:
        _check_path(info.name, archive)
        if not (info.isreg() or info.isdir()):
            raise GraceError(f"archive {archive} contains {info.name!r}, a link or a device; refused")
        if info.isreg() and _wanted(info.name, take):
            yield Member(info.name, info.size, info)


def _check_path(name: str, archive: Path) -> None:
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or "\0" in name or ":" in (path.parts or ("",))[0]:
        raise GraceError(f"archive {archive} contains the path {name!r}, which leads outside its folder; refused")


def _wanted(name: str, take: str) -> bool:
    """Whether the base name matches; files that macOS adds to an archive (`__MACOSX/._photo.jpg`) never do."""
    path = PurePosixPath(name)
    return "__MACOSX" not in path.parts and not path.name.startswith("._") and fnmatch.fnmatch(path.name, take)


def _copy(source: IO[bytes], target: Path, allowed: int, archive: Path) -> int:
    """Copy at most `allowed` bytes, whatever the declared size; return how many were copied."""
    done = 0
    with open(target, "wb") as file:
        while block := source.read(BLOCK):
            done += len(block)
            if done > allowed:
                raise GraceError(f"archive {archive} unpacks to more bytes than allowed; refused")
            file.write(block)
    return done
