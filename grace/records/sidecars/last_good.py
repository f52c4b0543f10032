"""The last good output of a stage, kept until the stage has made a new one.

Snakemake deletes a job's outputs before it starts and when it fails. So when a run starts, every output that it is going to make
again gets a second name, `.NAME.last` beside it: hard links. They cost no space until Snakemake deletes the first name; from then
on the old output takes its space until the new one is complete. A stage that succeeds removes it; at the end
of the run what was deleted and not made again gets its old name back. A run that was killed leaves the second name to the next.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from grace.records.sidecars.hashes import FOLDER_SIDECAR
from grace.system.errors import GraceError


def set_aside(outputs: Iterable[Path | str]) -> None:
    """Give every one of `outputs` that exists its second name; what has one and is missing keeps it."""
    for output in map(Path, outputs):
        for path in _with_sidecar(output):
            if os.path.lexists(path):
                try:
                    _remove(_second(path))
                    _link(path, _second(path))
                except OSError as error:
                    raise GraceError(f"{path} cannot be kept until it is made again: {error.strerror}") from None


def put_back(output: Path | str) -> bool:
    """Give `output` its name back if it was deleted, else drop its second name; whether it was given back."""
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
    """Drop the second name of `output`, which was made again."""
    for path in _with_sidecar(Path(output)):
        _remove(_second(path))


def _second(path: Path) -> Path:
    return path.with_name(f".{path.name}.last")


def _with_sidecar(output: Path) -> list[Path]:
    """A file's record lies beside it, and is deleted by the stage that makes the file again; a folder's lies inside."""
    if output.is_dir() or _second(output).is_dir():
        return [output]
    return [output, output.with_name(f"{output.name}.{FOLDER_SIDECAR}")]


def _link(path: Path, second: Path) -> None:
    """Hard-link a file, or all files of a folder; where the file system has no hard links, move it instead."""
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
