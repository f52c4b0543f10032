"""The report's tables: numbers as the text that the page shows.

Part of `python -m grace report`; reads no files. Every function returns plain lists and dictionaries
of text and numbers; the template escapes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

import pandas as pd

from grace.evaluation.comparison import KEY, against_baseline, is_significant
from grace.evaluation.measures import MEASURES
from grace.evaluation.table import p_text, percent
from grace.report.costs import duration
from grace.report.inputs import System, loss_columns

RETRIEVAL_COUNTS = ("hypotheses", "invalid", "duplicates", "failed_queries")


def recall_rows(systems: Sequence[System]) -> list[dict[str, Any]]:
    """The Recall table: one cell per measure (value, interval, comparison with the baseline), in percent."""
    best = {name: max(system.row[name] for system in systems) for name in MEASURES}
    rows = []
    for system in systems:
        row = system.row
        cells = []
        for name in MEASURES:
            low, high = row["intervals"][name]
            cells.append(
                {
                    "value": percent(row[name]),
                    "interval": f"{percent(low)} to {percent(high)}",
                    "best": len(systems) > 1 and row[name] == best[name],
                    "mark": _mark(against_baseline(row, name), row["confidence"]),
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
    """Differences from the baseline, one row per scheme (seeds are repetitions): difference in points, interval and p."""
    rows, seen = [], set()
    for system in systems:
        if against_baseline(system.row, MEASURES[0]) is None or (system.name in seen and system.row.get(KEY)):
            continue
        seen.add(system.name)
        cells = []
        for name in MEASURES:
            found = against_baseline(system.row, name) or {}
            low, high = found["interval"]
            cells.append(
                {
                    "value": signed(found["difference"]),
                    "interval": f"{signed(low)} to {signed(high)}",
                    "p": _p_words(found["p"]),
                    "mark": _mark(found, system.row["confidence"]),
                }
            )
        seeds = system.row[KEY]["seeds"] if system.row.get(KEY) else 1
        label = f"{system.name}, mean of {seeds} seeds" if seeds > 1 else system.label
        rows.append({"label": label, "name": system.name, "cells": cells})
    return rows


def seed_rows(systems: Sequence[System]) -> list[dict[str, Any]]:
    """Mean and standard deviation over the seeds of every system that has several."""
    rows = []
    for name in dict.fromkeys(system.name for system in systems):
        own = [system.row for system in systems if system.name == name]
        if len(own) > 1:
            cells = [
                {
                    "value": percent(mean(row[measure] for row in own)),
                    "interval": f"± {percent(stdev(row[measure] for row in own))}",
                }
                for measure in MEASURES
            ]
            rows.append({"label": name, "name": name, "seeds": len(own), "cells": cells})
    return rows


def headline(systems: Sequence[System]) -> str:
    """The result in sentences: the baseline, and every scheme compared with it, as means over seeds; no scheme is left out."""
    baseline = next((system for system in systems if system.is_baseline), None)
    others = {system.name: system for system in systems if not system.is_baseline}
    said = []
    if baseline is not None:
        low, high = baseline.row["intervals"]["R@1"]
        said.append(
            f"The baseline puts the right picture first for {percent(baseline.row['R@1'])} % ({percent(low)} to {percent(high)}) "
            "of the queries"
        )
    for name, system in others.items():
        values = [other.row["R@1"] for other in systems if other.name == name]
        seeds = (
            f" (mean of {len(values)} seeds, standard deviation {100 * stdev(values):.1f})" if len(values) > 1 else ""
        )
        versus = against_baseline(system.row, "R@1")
        if versus is None:
            verdict = ""
        elif not is_significant(versus, system.row["confidence"]):
            verdict = f", no significant difference ({_p_words(versus['p'])})"
        else:
            side = "above" if versus["difference"] > 0 else "below"
            verdict = f", significantly {side} it ({_p_words(versus['p'])})"
        said.append(f"{name} for {percent(mean(values))} %{seeds}{verdict}")
    corrected = any(system.row.get(KEY, {}).get("systems", 1) > 1 for system in others.values())
    note = f" The p-values are corrected for {len(others)} systems (Holm)." if corrected else ""
    return "; ".join(said) + "." + note


def retrieval_rows(systems: Sequence[System]) -> list[dict[str, Any]]:
    """Counts of the search: beams, depth, hypotheses and how many of them failed, time per query."""
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
                "invalid_rate": f"{100 * found['invalid'] / made:.2g} %" if made and found.get("invalid") else "",
                "certified": f"{100 * certified:.1f} %" if isinstance(certified, float) else "–",
                "seconds": "–" if seconds is None else duration(seconds),
                "each": "–" if not queries or seconds is None else f"{1000 * seconds / queries:.1f} ms",
            }
        )
    return rows


def identifier_rows(systems: Sequence[System]) -> list[dict[str, Any]]:
    """Statistics of the identifiers of every system that has any; `missing` if there is no statistics.json."""
    rows = []
    for system in systems:
        if not system.is_generative:
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
                "lengths": f"{min(counts)} to {max(counts)}" if len(counts) > 1 else whole(min(counts, default=None)),
                "mean": f"mean {average:.1f}" if len(counts) > 1 else "",
                "fan_out": _fan_out(found.get("gallery_fan_out") or found.get("fan_out") or []),
                "evenness": [f"{level['evenness']:.2f}" for level in (found.get("tree") or {}).get("levels", [])],
                "shared": whole(shared.get("identifiers")),
                "ambiguous": whole(shared.get("images")),
                "example": _example(system),
            }
        )
    return rows


def check_rows(systems: Sequence[System]) -> list[tuple[str, str]]:
    """Every check that identifiers passed, with the systems whose identifiers passed it."""
    labels: dict[str, list[str]] = {}
    checked = [system for system in systems if system.statistics]
    for system in checked:
        for check in system.statistics.get("checks", []):  # type: ignore[union-attr]
            labels.setdefault(str(check), []).append(system.label)
    several = len(checked) > 1
    return [(check, "all" if several and len(own) == len(checked) else ", ".join(own)) for check, own in labels.items()]


def lengths(statistics: dict[str, Any]) -> dict[int, int]:
    """Number of identifiers by length in tokens, ascending."""
    return {
        int(length): int(count)
        for length, count in sorted(statistics.get("lengths", {}).items(), key=lambda pair: int(pair[0]))
    }


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


def whole(value: float | int | None) -> str:
    return "–" if value is None else f"{value:,}"


def signed(fraction: float) -> str:
    return f"{100 * fraction:+.1f}".replace("-", "−")


def _p_words(p_value: float) -> str:
    return "p < 0.001" if p_value < 0.001 else f"p = {p_text(p_value)}"


def _mark(versus: dict[str, Any] | None, confidence: float) -> str:
    """above or below: the system is significantly above or below the baseline; same: neither; empty without a
    baseline."""
    if versus is None:
        return ""
    if not is_significant(versus, confidence):
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
