"""Reset modification times that lie in the future, left by a clock that ran ahead, before the workflow's first job.

Snakemake considers an output old if an input is newer, and refuses a job whose input is dated in the future. So outputs made
while the clock ran ahead would be remade, and every run would fail, until that time has come. Times in the past need no
correction: what was made from those files is newer, or is remade.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path


def no_times_to_come(folder: Path | str) -> int:
    """Set the mtime of everything below `folder` that is dated in the future to now; return how many were changed."""
    now, found = time.time_ns(), 0
    for root, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(root, name)
            with contextlib.suppress(FileNotFoundError):  # a stage of another run may delete its temporary files
                if os.stat(path, follow_symlinks=False).st_mtime_ns > now:
                    os.utime(path, ns=(now, now), follow_symlinks=False)
                    found += 1
    return found
