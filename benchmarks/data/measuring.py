"""Run a command and measure wall time, CPU time and peak memory. Used by the measurements in this folder."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from grace.records.provenance import machine, versions

ROOT = Path(__file__).resolve().parents[2]


def measured(*arguments: object) -> dict[str, float]:
    """Run `python ARGUMENTS` in the repository; {seconds, cpu_seconds, peak_memory_mb, load}. Exits if it fails.

    Peak memory is the largest resident set, including pages of memory-mapped files. Load is the mean number of runnable
    threads in the last minute of the run, including its own: if it exceeds the cores, the seconds mean little.
    """
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, *map(str, arguments)], cwd=ROOT)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"failed: python {' '.join(map(str, arguments))}")
    return {
        "seconds": round(time.perf_counter() - began, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_memory_mb": usage.ru_maxrss // 1024,
        "load": round(os.getloadavg()[0], 1),
    }


def circumstances() -> dict[str, Any]:
    """The machine, the cores available to the measurement, and versions."""
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.exists() else []
    return {
        "command": " ".join(["python -m", sys.modules["__main__"].__spec__.name, *sys.argv[1:]]),
        "processor": names[0].partition(":")[2].strip() if names else "unknown",
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "platform": machine()["platform"],
        "versions": {
            name: said for name, said in versions().items() if name in ("python", "numpy", "scikit-learn", "pandas")
        },
    }
