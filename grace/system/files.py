"""Reading and writing files so that a file that exists is complete.

Every writer makes the file under a temporary name in the same folder and renames it at the end. Every reader answers a
missing or broken file with a `GraceError` that names it. No format here can execute code.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from grace.system.errors import GraceError

MARKER = ".grace"  # in every folder that a stage wrote: the name of that stage


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, delete it on any error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files private; give the result the mode that a plain open() would.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path | str, stage: str) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; swap it in on success (an old folder goes), delete it on any error.

    Only an empty folder or an earlier output of the same stage is replaced: see `check_output_folder`.
    """
    path = check_output_folder(path, stage)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        (temporary / MARKER).write_text(f"{stage}\n", encoding="utf-8")
        yield temporary
        os.chmod(temporary, 0o755)
        if path.exists():
            shutil.rmtree(path)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_output_folder(path: Path | str, stage: str) -> Path:
    """Raise a `GraceError` if writing the folder `path` would delete what the stage did not make itself.

    Every folder that a stage writes holds the file `.grace` with the stage's name; a folder with other content, the
    current folder and what holds it are refused. Long stages call this before their work.
    """
    folder = Path(path).resolve()
    here = Path.cwd().resolve()
    if folder == here or folder in here.parents:
        raise GraceError(f"output {str(path)!r} is the current folder or holds it; name a folder of its own")
    if folder.exists() and not folder.is_dir():
        raise GraceError(f"output {path} is a file; name a folder")
    if folder.is_dir() and any(folder.iterdir()):
        marker = folder / MARKER
        made_by = marker.read_text(encoding="utf-8").strip() if marker.is_file() else ""
        if made_by != stage:
            whose = f"is an output of the stage {made_by}" if made_by else "holds files that this command did not make"
            raise GraceError(f"output {path} {whose}; name another folder, or delete it yourself")
    return folder


def remove_leftovers(path: Path) -> None:
    """Delete what an earlier writer of `path` that was killed left beside it under temporary names."""
    temporary = re.compile(re.escape(f".{path.name}") + r"(\.provenance\.json)?\.[a-z0-9_]{8}")
    for entry in path.parent.iterdir() if path.parent.is_dir() else ():
        if temporary.fullmatch(entry.name):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def check_space(folder: Path, needed: int, what: str, reserve: int = 0) -> None:
    """Raise a `GraceError` unless the disk of `folder` has `needed` bytes free, and `reserve` beside."""
    free = shutil.disk_usage(folder).free
    if free < needed + reserve:
        spare = f" and {reserve / 1e9:.1f} GB to spare" if reserve else ""
        raise GraceError(
            f"{what} needs {amount(needed)}{spare} on the disk of {folder}, {amount(free)} are free; make room, or name "
            "another folder"
        )


def amount(size: int) -> str:
    """Bytes as people say them; a small amount is not 0.00 GB."""
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.2f} MB"


def need(path: Path | str, what: str) -> Path:
    """Return `path` if it exists, else raise a `GraceError` that says which input is missing."""
    path = Path(path)
    if not path.exists():
        raise GraceError(f"{what} is missing: {path} does not exist")
    return path


def write_json(path: Path | str, value: Any) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path | str, what: str = "JSON file") -> Any:
    path = need(path, what)
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))  # some editors put a byte-order mark first
    except json.JSONDecodeError as error:
        begins = error.doc.lstrip()[:20]
        if begins[:1] not in '{["-0123456789tfn' or error.pos == 0:
            raise GraceError(f"{what} {path} is not a JSON file: it begins with {begins!r}") from None
        raise GraceError(
            f"{what} {path} is not valid JSON (line {error.lineno}, column {error.colno}: {error.msg}); "
            "it may be truncated: fetch or make it again"
        ) from None
    except UnicodeDecodeError as error:
        raise GraceError(
            f"{what} {path} is not UTF-8 text (byte {error.start}); it may be another kind of file"
        ) from None
    except RecursionError:
        raise GraceError(f"{what} {path} is nested too deeply to be read") from None
    except ValueError:  # Python's limit on the digits of a number
        raise GraceError(
            f"{what} {path} holds a whole number of thousands of digits; it may be another kind of file"
        ) from None


def write_table(path: Path | str, table: pd.DataFrame) -> None:
    """Write a Parquet file (zstd), without the index."""
    with replacing(path) as temporary:
        table.to_parquet(temporary, index=False, compression="zstd")


def read_table(path: Path | str, what: str, columns: list[str]) -> pd.DataFrame:
    """Read a Parquet file and check that `columns` are there."""
    path = need(path, what)
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:  # pyarrow's errors derive from these
        raise GraceError(f"{what} {path} is not a readable Parquet file ({_first_line(error)})") from None
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise GraceError(f"{what} {path} lacks the column(s) {', '.join(missing)}; it has {', '.join(table.columns)}")
    return table


def write_array(path: Path | str, array: np.ndarray) -> None:
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.save(file, array, allow_pickle=False)


def read_array(path: Path | str, what: str) -> np.ndarray:
    """Open a .npy file as a read-only memory map."""
    path = need(path, what)
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise GraceError(f"{what} {path} is not a readable .npy array ({_first_line(error)})") from None


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
