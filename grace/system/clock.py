"""Files that a clock running ahead has stamped: found before the workflow's first job, and given the time of now on request.

Snakemake takes an output for old if an input is newer, and refuses a job whose input has a time in the future. So what was made
while the clock ran ahead would rerun until that time has come, and end every run in an error. Files of the past need nothing:
what was made of them is newer, or runs again. Command: `python -m grace retime results`.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

TOLERANCE = 60
"""Seconds by which the clocks of machines that share a file system may differ."""


def dated_later(folder: Path | str, tolerance: float = TOLERANCE) -> list[str]:
    """Files and folders below `folder` that are dated more than `tolerance` seconds later than now, sorted."""
    latest, found = time.time_ns() + int(tolerance * 1e9), []
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(root, name)
            with contextlib.suppress(FileNotFoundError):  # a stage of another run may delete its temporary files
                if os.stat(path, follow_symlinks=False).st_mtime_ns > latest:
                    found.append(path)
    return sorted(found)


def retime(folder: Path | str) -> list[str]:
    """Give every file and folder below `folder` that is dated later than now the time of now; return which they were."""
    found = dated_later(folder, tolerance=0)
    now = time.time_ns()
    for path in found:
        os.utime(path, ns=(now, now), follow_symlinks=False)
    return found
