"""Keep the last good output of a stage until the stage has written a new one.

Snakemake deletes a job's outputs before the job starts and when it fails. So when a run starts, every output that will be
remade gets a second name, `.NAME.last` beside it, by hard links. They take no extra space until Snakemake deletes the first
name; then the old output occupies its space until the new one is complete. A stage that succeeds removes the second name; at
the end of the run, outputs that were deleted but not remade get their name back. If a run is killed, the second name is left
for the next run.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from grace.records.sidecars.hashes import FOLDER_SIDECAR
from grace.system.errors import GraceError


def set_aside(outputs: Iterable[Path | str]) -> None:
    """Give each existing output its second name; a missing output keeps the second name it has."""
    for output in map(Path, outputs):
        for path in _with_sidecar(output):
            if os.path.lexists(path):
                try:
                    _remove(_second(path))
                    _link(path, _second(path))
                except OSError as error:
                    raise GraceError(f"cannot keep a copy of {path} while it is made again: {error.strerror}") from None


def put_back(output: Path | str) -> bool:
    """Restore `output` from its second name if it was deleted, else drop the second name; return whether restored."""
    output = Path(output)
    restored = not os.path.lexists(output) and os.path.lexists(_second(output))
    for path in _with_sidecar(output):
        if restored and os.path.lexists(_second(path)):
            _remove(path)
            os.replace(_second(path), path)
        else:
            _remove(_second(path))
    return restored


def forget(output: Path | str) -> None:
    """Drop the second name of `output` after it was made again."""
    for path in _with_sidecar(Path(output)):
        _remove(_second(path))


def _second(path: Path) -> Path:
    return path.with_name(f".{path.name}.last")


def _with_sidecar(output: Path) -> list[Path]:
    """The output and, for a file, the record beside it, which the stage deletes; a folder's record is inside it."""
    if output.is_dir() or _second(output).is_dir():
        return [output]
    return [output, output.with_name(f"{output.name}.{FOLDER_SIDECAR}")]


def _link(path: Path, second: Path) -> None:
    """Hard-link a file, or all files of a folder; move it if the file system does not support hard links."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, second, symlinks=True, copy_function=os.link)
        else:
            os.link(path, second, follow_symlinks=False)
    except (OSError, shutil.Error):
        _remove(second)
        os.replace(path, second)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
