"""Where to get the public data sets: `grace/data/download/sources.csv`, read and checked.

One row per file: dataset, file (its name under {data}/archives/), url, mirrors (more URLs, separated by spaces), bytes,
sha256 and md5 where known, take (which members of the archive to unpack, a pattern for base names), into (where they go
under {data}/{dataset}/: a file for one member, a folder for many), files (how many there are), unpacked_bytes (their total;
exact if files is 1), form (URL of a form, for a file that may only be had by filling it in), licence, terms. Part of
`python -m grace download`.
"""

from __future__ import annotations

import csv
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from grace.system.errors import GraceError, did_you_mean
from grace.system.files import need
from grace.workflow.config import Config

SOURCES_FILE = Path(__file__).with_name("sources.csv")
COLUMNS = (
    *("dataset", "file", "url", "mirrors", "bytes", "sha256", "md5", "take", "into", "files", "unpacked_bytes"),
    *("form", "licence", "terms"),
)
SCHEMES = ("http", "https", "file")
_DIGEST = {"sha256": re.compile(r"[0-9a-f]{64}"), "md5": re.compile(r"[0-9a-f]{32}")}


@dataclass(frozen=True)
class Source:
    """One file of a data set. If unknown, `size` is None and a checksum is empty."""

    dataset: str
    file: str
    urls: tuple[str, ...]
    size: int | None
    sha256: str
    md5: str
    take: str
    into: str
    files: int
    unpacked_bytes: int
    form: str
    licence: str
    terms: str


def read_sources(path: Path | str = SOURCES_FILE) -> list[Source]:
    """All rows of the table; raises a `GraceError` with the line number if anything is wrong."""
    path = need(path, "table of sources")
    with open(path, encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise GraceError(f"table of sources {path}: its columns must be {', '.join(COLUMNS)}")
        return [_source(row, f"table of sources {path}, line {reader.line_num}") for row in reader]


def sources_of(dataset: str, path: Path | str = SOURCES_FILE) -> list[Source]:
    """The files of one data set; raises a `GraceError` that suggests the nearest name if it is unknown."""
    sources = read_sources(path)
    found = [source for source in sources if source.dataset == dataset]
    if not found:
        known = sorted({source.dataset for source in sources})
        raise GraceError(f"data set '{dataset}' cannot be downloaded{did_you_mean(dataset, known)}")
    return found


def check_download(config: Config) -> None:
    """Raise a `GraceError` if the configuration asks to download a data set that is not in the table."""
    if config.dataset.karpathy.download:
        try:
            sources_of(config.dataset.karpathy.download)
        except GraceError as error:
            raise GraceError(f"dataset.karpathy.download: {error}") from None


def _source(row: dict[str | None, str], where: str) -> Source:
    if None in row or any(value is None for value in row.values()):
        raise GraceError(f"{where}: expected {len(COLUMNS)} fields; quote fields that contain a comma")
    for name in ("dataset", "file", "take", "into", "licence"):
        if not row[name].strip():
            raise GraceError(f"{where}: {name} is empty")
    for name in ("dataset", "file", "into"):
        place = PurePosixPath(row[name])
        if place.is_absolute() or ".." in place.parts or (name != "into" and len(place.parts) != 1):
            raise GraceError(f"{where}: {name} {row[name]!r} must be a plain name inside the data folder")
    for name, pattern in _DIGEST.items():
        if row[name] and not pattern.fullmatch(row[name]):
            raise GraceError(f"{where}: {row[name]!r} is not a valid {name}")
    urls = tuple(row["url"].split() + row["mirrors"].split())
    for url in urls:
        if urlsplit(url).scheme not in SCHEMES:
            raise GraceError(f"{where}: URL {url!r} must start with {', '.join(SCHEMES)}")
    if bool(urls) == bool(row["form"]):
        raise GraceError(f"{where}: give either url or form")
    numbers = {}
    for name in ("bytes", "files", "unpacked_bytes"):
        if not re.fullmatch(r"\d*", row[name]) or (name != "bytes" and not row[name]):
            raise GraceError(f"{where}: {name} must be an integer, not {row[name]!r}")
        numbers[name] = int(row[name]) if row[name] else None
    return Source(
        dataset=row["dataset"], file=row["file"], urls=urls, size=numbers["bytes"], sha256=row["sha256"],
        md5=row["md5"], take=row["take"], into=row["into"], files=numbers["files"] or 0,
        unpacked_bytes=numbers["unpacked_bytes"] or 0, form=row["form"], licence=row["licence"], terms=row["terms"],
    )  # fmt: skip
