"""The number of threads set in the environment."""

from __future__ import annotations

import os


def openmp_threads() -> int | None:
    """OMP_NUM_THREADS as OpenMP reads it: the first of a list; None if it is unset or not a positive number."""
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isascii() and first.isdigit() and int(first) > 0 else None
