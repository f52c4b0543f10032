"""The figure of the decoding benchmark: building the trie, the selection step, and one query by gallery size.

Part of `python -m grace report`; reads only its arguments. Panels of parts that were not run are left out.
"""

from __future__ import annotations

from collections.abc import Callable
from statistics import median
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from grace.report.decoding import STRUCTURES, seconds
from grace.report.figures import STYLE, WIDTH, colour, svg

MARKS = {
    "dictionaries": ("baseline", "s"), "marisa-trie": ("numeric", "^"), "level order": ("structured", "o"),
    "FAISS flat": ("baseline", "s"), "FAISS HNSW": ("numeric", "^"), "FAISS IVF": ("semantic", "v"),
    "grace": ("structured", "o"),
}  # fmt: skip


def decoding_figure(benchmark: dict[str, Any]) -> Markup | None:
    """Up to three panels; None if there is nothing to draw."""
    parts = benchmark["parts"]
    drawers: dict[str, Callable[[Axes, list[dict[str, Any]]], str]] = {
        "trie": _build, "selection": _selection, "dense": _dense,
    }  # fmt: skip
    drawn = [name for name in drawers if parts.get(name)]
    if not drawn:
        return None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH * len(drawn) / 3, 3.1), layout="constrained")
        axes = figure.subplots(1, len(drawn), squeeze=False)[0]
        said = [drawers[name](axis, parts[name]) for axis, name in zip(axes, drawn, strict=True)]
        return svg(figure, "decoding", "Benchmark of constrained decoding", " ".join(said))


def _build(axis: Axes, rows: list[dict[str, Any]]) -> str:
    shape = rows[0]["shape"]
    lines = {kind: [(row["identifiers"], median(row["build_s"])) for row in rows
                    if (row["shape"], row["structure"]) == (shape, kind)] for kind in STRUCTURES}  # fmt: skip
    _lines(axis, lines, "Building the trie", "identifiers")
    return "Building the trie: " + _told(lines)


def _selection(axis: Axes, rows: list[dict[str, Any]]) -> str:
    """Bars for the largest trie of every shape and vocabulary."""
    largest = max(row["identifiers"] for row in rows)
    rows = [row for row in rows if row["identifiers"] == largest]
    settings = list(dict.fromkeys((row["shape"], row["vocabulary"]) for row in rows))
    ways = list(dict.fromkeys(row["way"] for row in rows))
    shades = ("baseline", "numeric", "semantic", "structured")
    said = []
    for place, way in enumerate(ways):
        times = [1000 * median(row["whole_s"]) / len(row["step_s"]) for row in rows if row["way"] == way]
        spots = [at + (place - (len(ways) - 1) / 2) * 0.8 / len(ways) for at in range(len(settings))]
        axis.bar(spots, times, 0.74 / len(ways), color=colour(shades[place % len(shades)]), label=way)
        said.append(f"{way} {', '.join(f'{time:.3g} ms' for time in times)}")
    axis.set_title("Selection step, ms", loc="left", fontweight="bold")
    axis.set_xticks(range(len(settings)), [f"{shape.split('_')[0]}\nV = {size:,}" for shape, size in settings])
    axis.set_xlabel(f"{largest:,} identifiers, 64 queries, 10 beams")
    axis.set_yscale("log")
    axis.tick_params(length=0)
    axis.grid(axis="y")
    axis.set_axisbelow(True)
    axis.set_ylim(top=axis.get_ylim()[1] * 8)
    axis.legend(fontsize=7.5, loc="upper left")
    return f"Selection step at {largest:,} identifiers: {'; '.join(said)}."


def _dense(axis: Axes, rows: list[dict[str, Any]]) -> str:
    lines: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        lines.setdefault(row["system"], []).append((row["images"], row["one"]["p50_s"]))
    _lines(axis, lines, "One query, median", "images")
    return "One query: " + _told(lines)


def _lines(axis: Axes, lines: dict[str, list[tuple[float, float]]], title: str, of: str) -> None:
    for name, points in lines.items():
        shade, mark = MARKS.get(name, ("accent", "o"))
        axis.plot(*zip(*points, strict=True), color=colour(shade), marker=mark, markersize=5, linewidth=1.5, label=name)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_title(f"{title}, seconds", loc="left", fontweight="bold")
    axis.set_xlabel(of)
    axis.grid()
    axis.set_axisbelow(True)
    axis.tick_params(length=0, which="both")
    axis.legend(fontsize=7.5, loc="upper left")
    axis.set_ylim(top=axis.get_ylim()[1] * 8)


def _told(lines: dict[str, list[tuple[float, float]]]) -> str:
    return "; ".join(f"{name} {seconds(points[-1][1])} at {points[-1][0]:,}" for name, points in lines.items()) + "."
