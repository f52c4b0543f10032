"""Find files dated in the future by a clock that ran ahead, before the workflow's first job; reset their times on request.

Snakemake considers an output old if an input is newer, and refuses a job whose input is dated in the future. So outputs made
while the clock ran ahead would be remade, and every run would fail, until that time has come. Times in the past need no
correction: what was made from those files is newer, or is remade. Command: `python -m grace retime results`.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

TOLERANCE = 60
"""Seconds by which the clocks of machines that share a file system may differ."""


def dated_later(folder: Path | str, tolerance: float = TOLERANCE) -> list[str]:
    """Files and folders below `folder` dated more than `tolerance` seconds in the future, sorted."""
    latest, found = time.time_ns() + int(tolerance * 1e9), []
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(root, name)
            with contextlib.suppress(FileNotFoundError):  # a stage of another run may delete its temporary files
                if os.stat(path, follow_symlinks=False).st_mtime_ns > latest:
                    found.append(path)
    return sorted(found)


def retime(folder: Path | str) -> list[str]:
    """Set the mtime of everything below `folder` that is dated in the future to now; return the paths changed."""
    found = dated_later(folder, tolerance=0)
    now = time.time_ns()
    for path in found:
        os.utime(path, ns=(now, now), follow_symlinks=False)
    return found
