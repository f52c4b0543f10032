"""The report's tables: numbers turned into the words that the page shows.

Part of `python -m grace report`; reads nothing but its arguments. Every function returns plain lists and dictionaries of text
and numbers; the template escapes them.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import pandas as pd

from grace.evaluation.measures import MEASURES
from grace.evaluation.table import p_text, percent
from grace.provenance import versions
from grace.report.inputs import Inputs, System, loss_columns

STAGES = (
    *("dataset", "tokenizer", "tower", "encode", "captioner", "pseudo_queries", "baseline"),
    *("identifiers", "trie", "train", "retrieve", "evaluate", "metrics", "report"),
)
RETRIEVAL_COUNTS = ("hypotheses", "invalid", "duplicates", "failed_queries")


def recall_rows(systems: Sequence[System]) -> list[dict[str, Any]]:
    """The Recall table: a cell a measure (value, interval, comparison with the baseline), in percent."""
    best = {name: max(system.row[name] for system in systems) for name in MEASURES}
    rows = []
    for system in systems:
        row = system.row
        cells = []
        for name in MEASURES:
            low, high = row["intervals"][name]
            versus = (row["versus_baseline"] or {}).get(name)
            cells.append(
                {
                    "value": percent(row[name]),
                    "interval": f"{percent(low)} to {percent(high)}",
                    "best": len(systems) > 1 and row[name] == best[name],
                    "mark": _mark(versus, row["confidence"]),
                }
            )
        rows.append(
            {
                "label": system.label,
                "name": system.name,
                "cells": cells,
                "memorization": "–" if row["memorization"] is None else percent(row["memorization"]),
                "valid": "–" if row["valid_rate"] is None else percent(row["valid_rate"]),
            }
        )
    return rows


def versus_rows(systems: Sequence[System]) -> list[dict[str, Any]]:
    """Differences from the baseline: a cell a measure with the difference in points, its interval and p."""
    rows = []
    for system in systems:
        if not system.row["versus_baseline"]:
            continue
        cells = []
        for name in MEASURES:
            found = system.row["versus_baseline"][name]
            low, high = found["interval"]
            cells.append(
                {
                    "value": signed(found["difference"]),
                    "interval": f"{signed(low)} to {signed(high)}",
                    "p": p_text(found["p_value"]),
                    "mark": _mark(found, system.row["confidence"]),
                }
            )
        rows.append({"label": system.label, "name": system.name, "cells": cells})
    return rows


def seed_rows(systems: Sequence[System]) -> list[dict[str, Any]]:
    """Mean, smallest and largest over the seeds of every system that has several."""
    rows = []
    for name in dict.fromkeys(system.name for system in systems):
        own = [system.row for system in systems if system.name == name]
        if len(own) > 1:
            cells = [
                {
                    "value": percent(mean(row[measure] for row in own)),
                    "interval": f"{percent(min(row[measure] for row in own))} to {percent(max(row[measure] for row in own))}",
                }
                for measure in MEASURES
            ]
            rows.append({"label": name, "name": name, "seeds": len(own), "cells": cells})
    return rows


def headline(systems: Sequence[System]) -> str:
    """The result in a sentence: the baseline, the best generative system and how they compare."""
    baseline = next(system for system in systems if system.is_baseline)
    others = [system for system in systems if not system.is_baseline]

    def said(system: System) -> str:
        low, high = system.row["intervals"]["R@1"]
        return f"{percent(system.row['R@1'])} % ({percent(low)} to {percent(high)})"

    text = f"The baseline puts the right picture first for {said(baseline)} of the queries"
    if not others:
        return text + "."
    best = max(others, key=lambda system: system.row["R@1"])
    text += f"; the best generative system, {best.label}, for {said(best)}"
    versus = (best.row["versus_baseline"] or {}).get("R@1")
    if versus is None:
        return text + "."
    if versus["p_value"] >= 1 - best.row["confidence"]:
        return f"{text}. The difference is not significant (p = {versus['p_value']:.2f})."
    side = "above" if versus["difference"] > 0 else "below"
    p_value = p_text(versus["p_value"])
    return f"{text}, significantly {side} it (p {p_value if p_value.startswith('<') else '= ' + p_value})."


def retrieval_rows(systems: Sequence[System]) -> list[dict[str, Any]]:
    """Counts of the search: beams, depth, hypotheses and what went wrong with them, time a query."""
    rows = []
    for system in systems:
        found = system.retrieval
        queries = found.get("queries") or 0
        seconds = found.get("seconds")
        made = found.get("hypotheses")
        certified = found.get("certified")
        rows.append(
            {
                "label": system.label,
                "name": system.name,
                "beams": whole(found.get("beams")),
                "depth": whole(found.get("depth")),
                "counts": [whole(found.get(name)) for name in RETRIEVAL_COUNTS],
                "invalid_rate": "–" if not made or found.get("invalid") is None else f"{100 * found['invalid'] / made:.2g} %",
                "certified": f"{100 * certified:.1f} %" if isinstance(certified, float) else "–",
                "seconds": "–" if seconds is None else duration(seconds),
                "each": "–" if not queries or seconds is None else f"{1000 * seconds / queries:.1f} ms",
            }
        )
    return rows


def identifier_rows(systems: Sequence[System]) -> list[dict[str, Any]]:
    """Statistics of the identifiers of every system that has any; `missing` where statistics.json is not there."""
    rows = []
    for system in systems:
        if system.is_baseline:
            continue
        found = system.statistics
        if found is None:
            rows.append({"label": system.label, "name": system.name, "missing": True})
            continue
        counts = lengths(found)
        total = sum(counts.values())
        average = sum(length * count for length, count in counts.items()) / total if total else 0.0
        shared = found.get("duplicates") or {}
        rows.append(
            {
                "label": system.label,
                "name": system.name,
                "missing": False,
                "images": whole(found.get("images")),
                "identifiers": whole(found.get("identifiers")),
                "lengths": f"{min(counts)} to {max(counts)}, mean {average:.1f}" if len(counts) > 1 else whole(min(counts, default=None)),
                "fan_out": _fan_out(found.get("gallery_fan_out") or found.get("fan_out") or []),
                "shared": whole(shared.get("identifiers")),
                "ambiguous": whole(shared.get("images")),
                "checks": [str(check) for check in found.get("checks", [])],
                "example": _example(system),
            }
        )
    return rows


def lengths(statistics: dict[str, Any]) -> dict[int, int]:
    """Identifiers by their number of tokens, ascending."""
    return {int(length): int(count) for length, count in sorted(statistics.get("lengths", {}).items(), key=lambda pair: int(pair[0]))}


def training_rows(curves: dict[str, pd.DataFrame]) -> list[dict[str, str]]:
    """First and last loss, steps and speed of every training log."""
    rows = []
    for label, curve in curves.items():
        losses = []
        for column in loss_columns(curve):
            values = curve[column].dropna()
            name = column.removeprefix("loss_") if column != "loss" else "loss"
            losses.append(f"{name} {values.iloc[0]:.3g} → {values.iloc[-1]:.3g}")
        speed = curve["samples_per_second"].median() if "samples_per_second" in curve else None
        rows.append(
            {
                "label": label,
                "steps": whole(int(curve["step"].max())),
                "losses": ", ".join(losses) or "–",
                "speed": "–" if speed is None or pd.isna(speed) else f"{speed:,.0f}",
            }
        )
    return rows


def stage_rows(benchmarks: pd.DataFrame) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Time and peak memory of every job in the order of the pipeline, and the total."""
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
    total = {"time": duration(table["seconds"].sum()), "cpu": duration(table["cpu_seconds"].sum()), "memory": memory(table["memory_mb"].max())}
    return rows, total


def dataset_facts(inputs: Inputs) -> list[tuple[str, str]]:
    """What was searched and asked."""
    summary = inputs.dataset.summary
    facts = [("Name", summary["name"]), ("Source", summary["source"]), ("Licence", summary["license"] or "not stated")]
    for split in ("train", "val", "test"):
        images, captions = (len(part) for part in (inputs.dataset.images_of(split), inputs.dataset.captions_of(split)))
        role = {"train": "", "val": "", "test": " (the gallery and the queries)"}[split]
        facts.append((f"Split {split}{role}", f"{images:,} images, {captions:,} captions"))
    if summary.get("restval"):
        facts.append(("COCO's restval", str(summary["restval"])))
    return facts


def version_table(systems: Sequence[System]) -> tuple[list[str], list[list[str]]]:
    """Versions of the environments that worked: (columns, rows of package and versions).

    A column is the environment that made the page, and each that wrote a retrieval report with other versions.
    """
    environments = {"this page": versions()}
    for system in systems:
        found = (system.retrieval.get("provenance") or {}).get("versions")
        if found and found not in environments.values():
            environments[f"retrieval, {system.label}"] = found
    packages = list(dict.fromkeys(name for found in environments.values() for name in found))
    return list(environments), [[name, *(found.get(name, "–") for found in environments.values())] for name in packages]


def machine() -> list[tuple[str, str]]:
    """The machine that makes the report."""
    facts = [("System", platform.platform()), ("Processor", _processor()), ("Processor threads", str(os.cpu_count()))]
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


def whole(value: float | int | None) -> str:
    return "–" if value is None else f"{value:,}"


def signed(fraction: float) -> str:
    return f"{100 * fraction:+.1f}".replace("-", "−")


def _mark(versus: dict[str, Any] | None, confidence: float) -> str:
    """above, below or same: the side of the baseline on which the system significantly stands; empty without a baseline."""
    if versus is None:
        return ""
    if versus["p_value"] >= 1 - confidence:
        return "same"
    return "above" if versus["difference"] > 0 else "below"


def _fan_out(levels: list[dict[str, Any]]) -> list[str]:
    """Children of the nodes of every level, as `median (fewest to most)`."""
    said = []
    for level in levels:
        spread = f" ({level['min']:,} to {level['max']:,})" if level["min"] != level["max"] else ""
        said.append(f"{level['median']:,g}{spread}")
    return said


def _example(system: System) -> str:
    if system.identifiers is None or system.identifiers.empty:
        return ""
    return str(system.identifiers["text"].iloc[-1])


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _gpus() -> str:
    """Names of the GPUs as the driver tells them; torch is not asked: it takes seconds to load."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "none"
    try:
        done = subprocess.run([tool, "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown (nvidia-smi did not answer)"
    names = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    return ", ".join(names) if done.returncode == 0 and names else "none"
