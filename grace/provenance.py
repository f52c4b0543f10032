"""What made a file: settings, versions, machine and time, for the JSON that a stage writes beside its results."""

from __future__ import annotations

import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from grace import __version__

PACKAGES = (
    "torch", "transformers", "open_flamingo", "open_clip_torch", "deepspeed", "snakemake", "numpy", "pandas", "pyarrow",
    "pillow", "safetensors", "tokenizers", "scikit-learn", "scipy", "faiss-cpu", "ir-measures",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on; a package that is not installed is left out."""
    found = {"grace": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # the inference environment has no DeepSpeed
            continue
    return found


def provenance(settings: dict[str, Any]) -> dict[str, Any]:
    """A JSON-able record: settings, versions, machine, environment (sys.prefix), threads, time (UTC)."""
    return {
        "settings": settings,
        "versions": versions(),
        "machine": {"platform": platform.platform(), "processor": platform.machine(), "cpus": os.cpu_count()},
        "environment": sys.prefix,
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
    }
