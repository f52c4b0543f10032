"""Times of files that a clock running ahead has stamped: the workflow takes them back to now before its first job.

Snakemake takes an output for old if an input is newer, and refuses a job whose input bears a time to come. So what was made
while the clock ran ahead would rerun until that time has come, and end every run in an error. Files of the past need nothing:
what was made of them is newer, or runs again.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path


def no_times_to_come(folder: Path | str) -> int:
    """Give every file and folder below `folder` that is dated later than now the time of now; return how many were."""
    now, found = time.time_ns(), 0
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(root, name)
            with contextlib.suppress(FileNotFoundError):  # a stage of another run may delete its temporary files
                if os.stat(path, follow_symlinks=False).st_mtime_ns > now:
                    os.utime(path, ns=(now, now), follow_symlinks=False)
                    found += 1
    return found
