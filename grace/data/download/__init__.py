"""Stage `download`: fetch, verify and unpack the files of a public data set.

Reads `grace/data/download/sources.csv` and the URLs in it. Writes to the data folder:

- `archives/`: the files fetched, or placed there by you, and `checksums.json` (see `checksums`)
- `{dataset}/`: `dataset_{dataset}.json` and `images/`, which the stage `dataset` reads
- `{dataset}/download.json`: a receipt with the URL, bytes, sha256, licence and terms of every file

Unpacked files are counted, not fetched again, so an archive may be deleted once it is unpacked. Command:

    python -m grace download coco --data data
"""

from __future__ import annotations

import difflib
from pathlib import Path

from grace.data.download.archives import Bounds, unpack_file, unpack_folder
from grace.data.download.checksums import WrongFile, record, verify
from grace.data.download.sources import SOURCES_FILE, Source, sources_of
from grace.data.download.transfer import RESERVE, Patience, fetch, have_of
from grace.system.errors import GraceError
from grace.system.files import check_space, read_json, write_json
from grace.system.progress import say

RECEIPT = "download.json"
SLACK = 2
"""An archive may unpack to at most this many times the expected bytes and files."""


def download(
    *, dataset: str, data: Path, sources: Path = SOURCES_FILE, patience: Patience | None = None
) -> dict[str, Path]:
    """Complete `{data}/{dataset}/`; return the paths of the unpacked files and folders, by their names there.

    Raises a `GraceError` for an unknown name, a file behind a form that you have not placed yet (before anything is
    fetched), a wrong or unreachable file, or too little disk space. A second call fetches nothing.
    """
    wanted = sources_of(dataset, sources)
    folder, archives = Path(data) / dataset, Path(data) / "archives"
    archives.mkdir(parents=True, exist_ok=True)
    missing = [source for source in wanted if not _is_complete(folder, source)]
    say(f"{dataset}: {len(missing)} of {len(wanted)} files are missing in {folder}")
    for source in missing:
        if source.form and not (archives / source.file).is_file():
            raise GraceError(_please_place(source, archives))
    _check_room(missing, archives)
    receipt = _receipt(folder)
    for source in wanted:
        found = receipt.get(source.file, {})
        if source in missing:
            found = _fetched(source, archives, patience)
            _unpack(source, archives / source.file, folder)
        receipt[source.file] = {
            "address": source.urls[0] if source.urls else source.form,
            "bytes": found.get("bytes"),
            "sha256": found.get("sha256"),
            "into": source.into,
            "licence": source.licence,
            "terms": source.terms,
        }
    write_json(folder / RECEIPT, {"dataset": dataset, "files": receipt})
    return {source.into: folder / source.into for source in wanted}


def _check_room(missing: list[Source], archives: Path) -> None:
    """Raise a `GraceError`, before anything is fetched, if the archives and their contents do not fit on the disk."""
    needed = sum(source.unpacked_bytes for source in missing)
    for source in {source.file: source for source in missing}.values():
        target = archives / source.file
        if not target.exists():
            needed += max(0, (source.size or 0) - have_of(target))
    if missing:
        check_space(archives, needed, f"{missing[0].dataset}, fetched and unpacked,", RESERVE)


def _fetched(source: Source, archives: Path, patience: Patience | None) -> dict[str, int | str]:
    """Fetch the archive unless it exists; an existing file is verified, never replaced."""
    target = archives / source.file
    if not target.exists():
        return fetch(source, target, patience)
    try:
        found = verify(target, source, archives)
    except WrongFile as why:
        raise GraceError(f"{target} is not the expected file: {why}; delete it to have it fetched again") from None
    record(source, found, archives)
    return found


def _unpack(source: Source, archive: Path, folder: Path) -> None:
    target = folder / source.into
    folder.mkdir(parents=True, exist_ok=True)
    check_space(folder, source.unpacked_bytes, f"unpacking {archive.name}", RESERVE)
    bounds = Bounds(SLACK * source.files, SLACK * source.unpacked_bytes, source.files)
    if source.files == 1:
        unpack_file(archive, source.take, target, bounds)
        size = target.stat().st_size
        if size != source.unpacked_bytes:
            target.unlink()
            raise GraceError(f"{source.take} in {archive} has {size:,} bytes, expected {source.unpacked_bytes:,}")
        return
    unpack_folder(archive, source.take, target, bounds)


def _is_complete(folder: Path, source: Source) -> bool:
    """Whether the unpacked file or folder exists; an incomplete one raises a `GraceError` and is not overwritten."""
    target = folder / source.into
    if source.files == 1:
        if not target.exists():
            return False
        if not target.is_file() or target.stat().st_size != source.unpacked_bytes:
            raise GraceError(
                f"{target} is not the published file of {source.unpacked_bytes:,} bytes; move it away, or use it by "
                "setting dataset.karpathy.json_file and dataset.karpathy.images"
            )
        return True
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return False
    count = sum(1 for _ in target.glob(source.take)) if target.is_dir() else 0
    if count < source.files:
        raise GraceError(
            f"{target} contains {count:,} files {source.take}, expected {source.files:,}; complete or delete it, or use it "
            "by setting dataset.karpathy.images and dataset.karpathy.json_file"
        )
    return True


def _please_place(source: Source, archives: Path) -> str:
    near = difflib.get_close_matches(source.file, [path.name for path in archives.iterdir()], n=1, cutoff=0.7)
    hint = f" (found {near[0]} there: rename it)" if near else ""
    return (
        f"{source.file} of {source.dataset} cannot be fetched automatically: fill in the form at {source.form}, save the "
        f"file as {(archives / source.file).absolute()} and run this again to verify and unpack it{hint}"
    )


def _receipt(folder: Path) -> dict[str, dict]:
    if not (folder / RECEIPT).exists():
        return {}
    found = read_json(folder / RECEIPT, "receipt of the download")
    if not isinstance(found, dict) or not isinstance(found.get("files"), dict):
        raise GraceError(f"receipt of the download {folder / RECEIPT} is not valid; delete it")
    return found["files"]
