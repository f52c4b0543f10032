"""Read users' CSV, TSV and JSONL tables, row by row as dictionaries.

CSV: the separator (comma, semicolon, tab or bar) is taken from the header, or from a first line such as `sep=;`. TSV: as
pandas and Excel write it (a quoted field may contain tabs, line breaks and doubled quotation marks) and as most others do (a
quotation mark is an ordinary character). JSONL: one object per line. Column names match regardless of case and surrounding
spaces. Empty rows, which Excel leaves at the end, are ignored.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grace.data.texts import read_text
from grace.system.errors import GraceError, did_you_mean

DELIMITERS = {".csv": ",", ".tsv": "\t"}
OTHERS = ";\t|,"
LONGEST = 2**27
"""Characters allowed in a cell; Python's default is 131,072."""
_SEP = re.compile(r"sep=(.)\r?\n", re.IGNORECASE)

Columns = dict[str, str]
"""Names of the required columns, each with the configuration key that sets it ("": none)."""


def rows_of(
    path: Path, what: str, columns: Columns, optional: tuple[str, ...] = ()
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (position of the row for error messages, {name: value}) for every row that is not empty.

    The names are those in `columns`, and those of `optional` that the table has.
    """
    suffix = path.suffix.lower()
    if suffix not in (*DELIMITERS, ".jsonl"):
        raise GraceError(f"{what} {path} must end in .csv, .tsv or .jsonl")
    text, named = read_text(path, what), f"{what} {path}"
    if suffix == ".jsonl":
        yield from _objects(text, named, columns, optional)
    else:
        yield from _delimited(text, named, DELIMITERS[suffix], columns, optional)


def _objects(
    text: str, named: str, columns: Columns, optional: tuple[str, ...]
) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{named}, line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:  # a plain ValueError for numbers with thousands of digits
            said = getattr(error, "msg", "nested too deeply" if isinstance(error, RecursionError) else str(error))
            raise GraceError(f"{where} is not valid JSON ({said})") from None
        if not isinstance(record, dict):
            raise GraceError(f"{where} must be an object")
        found = {name: record[_column(list(record), name, key, where)] for name, key in columns.items()}
        yield where, found | {name: record[key] for name in optional for key in record if _plain(key) == name}


def _delimited(
    text: str, named: str, delimiter: str, columns: Columns, optional: tuple[str, ...]
) -> Iterator[tuple[str, dict[str, str]]]:
    skipped = 0
    if said := _SEP.match(text):
        delimiter, text, skipped = said[1], text[said.end() :], 1
    delimiter = _delimiter(text, delimiter, columns)
    rows = (
        _tsv(text)
        if delimiter == "\t" and not _is_csv(text, "\t")
        else _csv(text, delimiter, f"{named}, line", skipped)
    )
    header = next(((number, row) for number, row in rows if any(map(str.strip, row))), None)
    if header is None:
        raise GraceError(f"{named} is empty; its first line must contain the column names")
    width = max(place for place, name in enumerate(header[1], start=1) if name.strip())
    first = f"{named}, line {header[0] + skipped}"
    places = {name: header[1].index(_column(header[1], name, key, first)) for name, key in columns.items()}
    places |= {name: place for name in optional for place, found in enumerate(header[1]) if _plain(found) == name}
    for number, row in rows:
        if not any(map(str.strip, row)):
            continue
        if len(row) < width or any(map(str.strip, row[width:])):
            raise GraceError(
                f"{named}, line {number + skipped}: expected {width} fields; quote captions that contain the delimiter"
            )
        yield f"{named}, line {number + skipped}", {name: row[place] for name, place in places.items()}


def _delimiter(text: str, usual: str, columns: Columns) -> str:
    """The delimiter that splits the first line into the column names, or the usual one."""
    header = text.lstrip("\r\n").split("\n", 1)[0]
    wanted = {_plain(name) for name in columns}
    for candidate in (usual, *OTHERS):
        if wanted <= {_plain(name.strip().strip('"')) for name in header.split(candidate)}:
            return candidate
    return usual


def _is_csv(text: str, delimiter: str) -> bool:
    """Whether a text is strictly valid CSV: correct quoting, and the same number of fields in every row."""
    csv.field_size_limit(LONGEST)
    try:
        widths = {
            len(row) for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True) if row
        }
    except csv.Error:
        return False
    return len(widths) == 1


def _csv(text: str, delimiter: str, where: str, skipped: int) -> Iterator[tuple[int, list[str]]]:
    """Yield (line where the row begins, its fields)."""
    csv.field_size_limit(LONGEST)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    while True:
        begins = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise GraceError(
                f"{where} {begins + skipped} cannot be read ({error}); is there an unclosed quotation mark?"
            ) from None
        yield begins, row


def _tsv(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (line where the row begins, its fields) of a table that is not strictly valid CSV.

    A field counts as quoted if it starts with a quotation mark that is closed by the rules of CSV, unless it would be closed
    only after what looks like another row: then the quotation mark is an ordinary character.
    """
    place, line = 0, 1
    while place < len(text):
        row, begins = [], line
        while True:
            field, stop = _quoted(text, place) or _bare(text, place)
            line += text.count("\n", place, stop)
            row.append(field)
            place = stop + 1
            if stop >= len(text) or text[stop] != "\t":
                break
        if text[stop : stop + 2] == "\r\n":
            place += 1
        line += stop < len(text)
        yield begins, row


def _quoted(text: str, start: int) -> tuple[str, int] | None:
    """The text of the quoted field at `start`, and where it ends; None if the field is not quoted."""
    if text[start : start + 1] != '"':
        return None
    stop = text.find('"', start + 1)
    while stop >= 0 and text[stop + 1 : stop + 2] == '"':
        stop = text.find('"', stop + 2)
    if stop < 0 or text[stop + 1 : stop + 2] not in ("", "\t", "\n", "\r"):
        return None
    inside = text[start + 1 : stop]
    if "\n" in inside and "\t" in inside.partition("\n")[2]:
        return None
    return inside.replace('""', '"'), stop + 1


def _bare(text: str, start: int) -> tuple[str, int]:
    """The text of the field up to the next tab or line break, and where it ends."""
    ends = [place for place in (text.find("\t", start), text.find("\n", start)) if place >= 0]
    stop = min(ends, default=len(text))
    if text[stop - 1 : stop + 1] == "\r\n" and stop > start:
        stop -= 1
    return text[start:stop], stop


def _column(names: list[str], name: str, key: str, where: str) -> str:
    """The entry of `names` that matches `name`: exactly, or as the only one regardless of case and surrounding spaces."""
    if name in names:
        return name
    alike = [found for found in names if _plain(found) == _plain(name)]
    if len(alike) == 1:
        return alike[0]
    hint = f"; set the column's name with {key}" if key else ""
    raise GraceError(f"{where}: no column '{name}'{did_you_mean(name, [n.strip() for n in names])}{hint}")


def _plain(name: str) -> str:
    return name.strip().casefold()
