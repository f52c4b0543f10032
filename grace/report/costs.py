"""What a run cost, and on what it ran: times, memory, versions and the machine, formatted for the report.

Part of `python -m grace report`; reads only its arguments and the facts of the machine that writes the page.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from grace.records.provenance import versions
from grace.report.inputs import System

STAGES = (
    *("dataset", "tokenizer", "tower", "encode", "captioner", "pseudo_queries", "baseline"),
    *("identifiers", "trie", "train", "retrieve", "evaluate", "metrics", "report"),
)


def stage_rows(benchmarks: pd.DataFrame) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Time and peak memory of every job, in the order of the pipeline, and the totals."""
    place = {stage: number for number, stage in enumerate(STAGES)}
    table = benchmarks.assign(place=benchmarks["stage"].map(place).fillna(len(STAGES)))
    table = table.sort_values(["place", "where", "stage"], kind="stable")
    longest = table["seconds"].max()
    rows = [
        {
            "stage": row.stage,
            "where": row.where,
            "time": duration(row.seconds),
            "share": round(100 * row.seconds / longest, 1) if longest > 0 else 0.0,
            "cpu": duration(row.cpu_seconds),
            "memory": memory(row.memory_mb),
        }
        for row in table.itertuples()
    ]
    total = {
        "time": duration(table["seconds"].sum()),
        "cpu": duration(table["cpu_seconds"].sum()),
        "memory": memory(table["memory_mb"].max()),
    }
    return rows, total


def version_table(systems: Sequence[System]) -> tuple[list[str], list[list[str]]]:
    """Versions of the environments involved: (columns, rows of package and versions).

    There is a column for the environment that writes the page, and one for each that wrote a retrieval report with
    different versions.
    """
    environments = {"this page": versions()}
    for system in systems:
        found = (system.retrieval.get("provenance") or {}).get("versions")
        if found and found not in environments.values():
            environments[f"retrieval, {system.label}"] = found
    packages = list(dict.fromkeys(name for found in environments.values() for name in found))
    return list(environments), [[name, *(found.get(name, "–") for found in environments.values())] for name in packages]


def machine() -> list[tuple[str, str]]:
    """The machine that writes the report."""
    facts = [("System", platform.platform()), ("Processor", _processor()), ("CPU threads", str(os.cpu_count()))]
    try:
        memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        facts.append(("Memory", f"{memory_bytes / 2**30:.0f} GiB"))
    except (ValueError, OSError):
        facts.append(("Memory", "unknown"))
    facts.append(("GPUs", _gpus()))
    return facts


def duration(seconds: float) -> str:
    if pd.isna(seconds):
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def memory(megabytes: float) -> str:
    if pd.isna(megabytes):
        return "–"
    return f"{megabytes:.0f} MB" if megabytes < 1000 else f"{megabytes / 1024:.2f} GB"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _gpus() -> str:
    """Names of the GPUs according to the driver; torch would take seconds to import."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "none"
    try:
        done = subprocess.run(
            [tool, "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown (nvidia-smi did not answer)"
    names = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    return ", ".join(names) if done.returncode == 0 and names else "none"
