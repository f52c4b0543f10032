"""Captions of a folder of images: from a CSV, TSV or JSONL table, or from text files beside the images.

Reads the table (columns or keys as the settings name them; several rows an image are several captions; in JSONL a caption
may be a list) or `photo.txt` / `photo.jpg.txt` beside `photo.jpg` (a line a caption). Text is UTF-8. Part of
`python -m grace dataset folder`.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from grace.config import Folder
from grace.data.karpathy import harmless
from grace.errors import GraceError, did_you_mean
from grace.files import need

SIDECAR = "sidecar"
DELIMITERS = {".csv": ",", ".tsv": "\t"}


def read_captions(settings: Folder, folder: Path, files: list[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Captions of `files` (paths in `folder`), and the names that the table has and the folder has not.

    The first is {file: its captions, in order, blank ones left out}; files without any are not in it. Anything that cannot
    be read is a `GraceError` with the line number.
    """
    if not settings.captions:
        return {}, []
    if settings.captions == SIDECAR:
        found = {file: lines for file in files if (lines := _sidecar(folder, file))}
        return found, []
    return _matched(_rows(Path(settings.captions), settings), files, Path(settings.captions))


def _matched(rows: Iterator[tuple[str, str]], files: list[str], table: Path) -> tuple[dict[str, list[str]], list[str]]:
    """Rows (name, caption) by file: a name is a path inside the folder, or a base name that only one file has."""
    known = set(files)
    by_name: dict[str, list[str]] = {}
    for file in files:
        by_name.setdefault(PurePosixPath(file).name, []).append(file)
    found: dict[str, list[str]] = {}
    strange: dict[str, None] = {}
    for name, caption in rows:
        path = name.removeprefix("./")
        candidates = [path] if path in known else by_name.get(path, [])
        if len(candidates) > 1:
            raise GraceError(
                f"table of captions {table}: {name!r} may be {candidates[0]} or {candidates[1]}; write the path inside the "
                "folder of images"
            )
        if not candidates:
            strange[name] = None
        elif caption:
            found.setdefault(candidates[0], []).append(caption)
    return found, list(strange)


def _rows(path: Path, settings: Folder) -> Iterator[tuple[str, str]]:
    """(name of the image, caption) of every row, captions made harmless."""
    suffix = need(path, "table of captions").suffix.lower()
    if suffix not in (*DELIMITERS, ".jsonl"):
        raise GraceError(f"table of captions {path} must end in .csv, .tsv or .jsonl")
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            records = _jsonl(file, path) if suffix == ".jsonl" else _delimited(file, path, DELIMITERS[suffix], settings)
            for number, record in records:
                where = f"table of captions {path}, line {number}"
                name = _field(record, settings.file_column, "file_column", where)
                captions = _field(record, settings.caption_column, "caption_column", where)
                if not isinstance(name, str) or not name.strip():
                    raise GraceError(f"{where}: '{settings.file_column}' must be the path of an image, not {name!r}")
                for caption in captions if isinstance(captions, list) else [captions]:
                    if not isinstance(caption, str):
                        raise GraceError(f"{where}: '{settings.caption_column}' must be a text, not {caption!r}")
                    yield name.strip(), harmless(caption)
    except UnicodeDecodeError as error:
        raise GraceError(f"table of captions {path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except csv.Error as error:
        raise GraceError(f"table of captions {path} is not a readable table ({error})") from None


def _delimited(file: Any, path: Path, delimiter: str, settings: Folder) -> Iterator[tuple[int, dict[str, Any]]]:
    # In a TSV a quotation mark is a mark like any other, as most writers of TSV mean it.
    quoting = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    reader = csv.DictReader(file, delimiter=delimiter, quoting=quoting, strict=True)
    if reader.fieldnames is None:
        raise GraceError(f"table of captions {path} is empty; its first line must name the columns")
    header = dict.fromkeys(reader.fieldnames)
    for name, key in ((settings.file_column, "file_column"), (settings.caption_column, "caption_column")):
        if (
            name not in header
            and len(header) == 1
            and (other := next((c for c in ";\t|," if c in next(iter(header))), ""))
        ):
            raise GraceError(
                f"table of captions {path}, line 1: the columns are separated by {other!r}; a {path.suffix} file separates them "
                f"by {delimiter!r}"
            )
        _field(header, name, key, f"table of captions {path}, line 1")
    for row in _until_broken(reader, path):
        if None in row or None in row.values():
            raise GraceError(
                f"table of captions {path}, line {reader.line_num}: {len(reader.fieldnames)} fields are expected; "
                "quote a caption that holds the delimiter"
            )
        yield reader.line_num, row


def _until_broken(reader: csv.DictReader, path: Path) -> Iterator[dict[str, Any]]:
    """The rows of `reader`; one that cannot be read is a `GraceError` with the line where it begins."""
    while True:
        begins = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise GraceError(
                f"table of captions {path}, line {begins} cannot be read ({error}); is a quotation mark opened there and not "
                "closed?"
            ) from None
        yield row


def _jsonl(file: Any, path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            said = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
            raise GraceError(f"table of captions {path}, line {number} is not valid JSON ({said})") from None
        if not isinstance(record, dict):
            raise GraceError(f"table of captions {path}, line {number} must be an object")
        yield number, record


def _field(record: dict[str, Any], name: str, key: str, where: str) -> Any:
    if name not in record:
        raise GraceError(
            f"{where}: there is no column '{name}'{did_you_mean(name, record)}; dataset.folder.{key} says which it is"
        )
    return record[name]


def _sidecar(folder: Path, file: str) -> list[str]:
    for path in (folder / f"{file}.txt", (folder / file).with_suffix(".txt")):
        if path.is_file():
            try:
                text = path.read_text(encoding="utf-8-sig")
            except UnicodeDecodeError as error:
                raise GraceError(
                    f"captions {path} are not UTF-8 text (byte {error.start}); save them as UTF-8"
                ) from None
            # "\n" alone: str.splitlines would also cut at marks that stand inside a caption
            return [line for line in map(harmless, text.replace("\r\n", "\n").split("\n")) if line]
    return []
