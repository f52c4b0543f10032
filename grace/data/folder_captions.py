"""Captions of a folder of images: from a CSV, TSV or JSONL table, or from text files beside the images.

Reads the table (`grace.data.text_tables`; the settings name its columns or keys; several rows for one image are several
captions; in JSONL a caption may be a list) or `photo.txt` / `photo.jpg.txt` beside `photo.jpg` (one caption per line). Part
of `python -m grace dataset folder`.
"""

from __future__ import annotations

from pathlib import Path

from grace.data.photo_names import PhotoNames
from grace.data.text_tables import rows_of
from grace.data.texts import check_whole, harmless, read_text
from grace.system.errors import GraceError
from grace.system.files import need
from grace.workflow.config import Folder

SIDECAR = "sidecar"
TABLE = "table of captions"


def read_captions(settings: Folder, folder: Path, files: list[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Captions of `files` (paths in `folder`), and the names in the table that match no file in the folder.

    The first is {file: its captions in order, without blank ones}; files without captions are absent. Raises a
    `GraceError` with the line number for a row that cannot be read, and for a table whose names match no photo at all.
    """
    if not settings.captions:
        return {}, []
    if settings.captions == SIDECAR:
        found = {file: lines for file in files if (lines := _sidecar(folder, file))}
        return found, []
    table = need(settings.captions, TABLE)
    rows = _rows(table, settings)
    names = list(dict.fromkeys(name for name, _ in rows))
    meant = PhotoNames(folder, files).match(names, f"{TABLE} {table}")
    if names and not meant:
        raise GraceError(
            f"{TABLE} {table}: none of its {len(names)} names matches a photo in {folder}; for example, the table has "
            f"{names[0]!r} and the folder has {files[0]!r}"
        )
    captions: dict[str, list[str]] = {}
    for name, caption in rows:
        if caption and name in meant:
            captions.setdefault(meant[name], []).append(caption)
    return captions, [name for name in names if name not in meant]


def _rows(path: Path, settings: Folder) -> list[tuple[str, str]]:
    """(name of the image, cleaned caption) of every row."""
    out = []
    keys = {
        settings.file_column: "dataset.folder.file_column",
        settings.caption_column: "dataset.folder.caption_column",
    }
    for where, record in rows_of(path, TABLE, keys):
        name, captions = record[settings.file_column], record[settings.caption_column]
        if not isinstance(name, str) or not name.strip():
            raise GraceError(f"{where}: '{settings.file_column}' must be the path of an image, not {name!r}")
        check_whole(name, where)
        for caption in captions if isinstance(captions, list) else [captions]:
            if not isinstance(caption, str):
                raise GraceError(f"{where}: '{settings.caption_column}' must be a string, not {caption!r}")
            check_whole(caption, where)
            out.append((name, harmless(caption)))
    return out


def _sidecar(folder: Path, file: str) -> list[str]:
    for path in (folder / f"{file}.txt", (folder / file).with_suffix(".txt")):
        if path.is_file():
            # split at "\n" only: str.splitlines also splits at separators that may occur inside a caption
            lines = read_text(path, "file of captions").replace("\r\n", "\n").split("\n")
            return [line for line in map(harmless, lines) if line]
    return []
