"""The report's figures: matplotlib drawings as inline SVG that take their colours from the page.

Part of `python -m grace report`; reads only its arguments.

A figure is drawn in placeholder colours, which are then replaced by CSS variables of the page (`var(--ink)`), so that it
follows light and dark mode. Text stays text. Ids get a prefix, because all figures share one page. The same input gives the
same bytes: no date, salted ids.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from html import escape
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from grace.evaluation.measures import MEASURES
from grace.report.inputs import System, loss_columns

# Placeholder colours: each stands for exactly one CSS variable of template.html.
VARIABLES = (
    *("ink", "muted", "line", "accent", "memorize", "retrieve"),
    *("baseline", "numeric", "string", "semantic", "structured", "atomic"),
)
PLACEHOLDERS = {name: f"#fe01{place:02x}" for place, name in enumerate(VARIABLES)}
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "grace",
    "font.size": 10,
    "text.color": PLACEHOLDERS["ink"],
    "axes.edgecolor": PLACEHOLDERS["line"],
    "axes.labelcolor": PLACEHOLDERS["muted"],
    "axes.titlesize": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": PLACEHOLDERS["muted"],
    "ytick.color": PLACEHOLDERS["muted"],
    "grid.color": PLACEHOLDERS["line"],
    "grid.linewidth": 0.8,
    "legend.frameon": False,
}
WIDTH = 10.4
"""Width of every figure, in inches of 72 page units."""


def colour(name: str) -> str:
    return PLACEHOLDERS.get(name, PLACEHOLDERS["accent"])


def recall_figure(systems: Sequence[System]) -> Markup:
    """Dots with intervals: one panel per measure, one line per system; the dashed line is the baseline."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 1.15 + 0.36 * len(systems)), layout="constrained")
        figure.get_layout_engine().set(wspace=0.08)  # type: ignore[union-attr]
        axes = figure.subplots(1, len(MEASURES), sharey=True)
        places = np.arange(len(systems))[::-1]
        for axis, measure in zip(axes, MEASURES, strict=True):
            for system, place in zip(systems, places, strict=True):
                value = 100 * system.row[measure]
                low, high = (100 * bound for bound in system.row["intervals"][measure])
                shade = colour(system.name)
                axis.plot(
                    [low, high],
                    [place, place],
                    color=shade,
                    linewidth=3,
                    solid_capstyle="butt",
                    alpha=0.45,
                    clip_on=False,
                )
                axis.plot([value], [place], marker="o", markersize=7, color=shade, clip_on=False)
                # Beside the interval, since above the dot it could overlap the baseline's dashed line.
                axis.annotate(
                    f"{value:.1f}",
                    (max(high, value), place),
                    xytext=(6, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=9,
                )
                if system.is_baseline:
                    axis.axvline(value, color=colour("baseline"), linewidth=1, linestyle=(0, (4, 3)), zorder=0)
            axis.set_title(f"{measure}, %", loc="left", fontweight="bold")
            axis.set_ylim(-0.6, len(systems) - 0.4)
            top = max(system.row["intervals"][measure][1] for system in systems)
            axis.set_xlim(0, max(100 * top * 1.25, 1))
            axis.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
            axis.grid(axis="x")
            axis.set_axisbelow(True)
            axis.spines["left"].set_visible(False)
            axis.tick_params(length=0, pad=7)
        axes[0].set_yticks(places, [system.label for system in systems])
        for tick in axes[0].get_yticklabels():
            tick.set_color(colour("ink"))
        said = "; ".join(
            f"{system.label}: " + ", ".join(f"{name} {100 * system.row[name]:.1f}" for name in MEASURES)
            for system in systems
        )
        return svg(figure, "recall", "Recall of every system with its interval", f"In percent. {said}.")


def curves_figure(curves: dict[str, pd.DataFrame]) -> Markup:
    """Training losses, one panel per model: the total loss and, if logged, its memorize and retrieve parts."""
    columns = min(3, len(curves))
    lines = -(-len(curves) // columns)
    names = {"loss": "loss", "loss_memorize": "memorize", "loss_retrieve": "retrieve"}
    dashes = {"loss_memorize": (0, (5, 1.5)), "loss_retrieve": (0, (1.5, 1.2))}
    shades = {"loss": "ink", "loss_memorize": "memorize", "loss_retrieve": "retrieve"}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH * columns / 3 if columns > 1 else 5.2, 2.45 * lines), layout="constrained")
        grid = figure.subplots(lines, columns, squeeze=False).ravel()
        for axis, (title, curve) in zip(grid[: len(curves)], curves.items(), strict=True):
            for column in loss_columns(curve):
                axis.plot(
                    curve["step"],
                    curve[column],
                    color=colour(shades.get(column, "accent")),
                    linewidth=1.6 if column == "loss" else 1.3,
                    linestyle=dashes.get(column, "-"),
                    label=names.get(column, column.removeprefix("loss_")),
                )
            axis.set_title(title, loc="left", fontweight="bold")
            axis.set_xlabel("step")
            axis.set_ylim(bottom=0)
            axis.set_xlim(left=0)
            axis.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
            axis.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
            axis.grid(axis="y")
            axis.tick_params(length=0)
            if len(loss_columns(curve)) > 1:
                axis.legend(fontsize=8.5, loc="upper right")
        for axis in grid[len(curves) :]:
            axis.set_visible(False)
        said = "; ".join(f"{title}: from {_ends(curve)}" for title, curve in curves.items())
        return svg(figure, "curves", "Training loss by step", f"{said}.")


def lengths_figure(lengths: dict[str, dict[int, int]]) -> Markup:
    """Number of identifiers by length in tokens, one panel per system."""
    columns = min(5, len(lengths))
    lines = -(-len(lengths) // columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(WIDTH * columns / 5, 2.6), 1.9 * lines), layout="constrained")
        grid = figure.subplots(lines, columns, squeeze=False).ravel()
        for axis, (title, counts) in zip(grid[: len(lengths)], lengths.items(), strict=True):
            scheme = title.split(",")[0]  # "atomic, seed 1"
            axis.bar(list(counts), list(counts.values()), width=0.75, color=colour(scheme))
            axis.set_title(title, loc="left", fontweight="bold")
            axis.set_xlabel("tokens")
            axis.set_xlim(min(counts) - 1, max(counts) + 1)
            axis.xaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
            axis.yaxis.set_major_locator(MaxNLocator(3, integer=True))
            axis.tick_params(length=0)
        for axis in grid[len(lengths) :]:
            axis.set_visible(False)
        said = "; ".join(
            f"{title}: {min(counts)} to {max(counts)} tokens, {sum(counts.values())} identifiers"
            for title, counts in lengths.items()
        )
        return svg(figure, "lengths", "Number of identifiers by length in tokens", f"{said}.")


def words_figure(counts: dict[str, dict[int, int]]) -> Markup:
    """Captions by number of words, in percent, one line per split; `counts` is {split: {words: captions}}."""
    shades = {"train": "retrieve", "val": "muted", "test": "memorize"}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH * 0.7, 2.3), layout="constrained")
        axis = figure.subplots()
        longest = max(max(own) for own in counts.values())
        for split, own in counts.items():
            total = sum(own.values())
            shares = [100 * own.get(words, 0) / total for words in range(longest + 2)]
            axis.stairs(shares, np.arange(longest + 3) - 0.5, color=colour(shades[split]), linewidth=1.6, label=split)
        axis.set_xlabel("words per caption")
        axis.set_ylabel("% of captions")
        axis.set_ylim(bottom=0)
        axis.set_xlim(-0.5, longest + 1.5)
        axis.xaxis.set_major_locator(MaxNLocator(10, integer=True))
        axis.yaxis.set_major_locator(MaxNLocator(4))
        axis.grid(axis="y")
        axis.set_axisbelow(True)
        axis.tick_params(length=0)
        axis.legend(fontsize=8.5, loc="upper right")
        said = "; ".join(
            f"{split}: {min(own)} to {max(own)} words, {sum(own.values())} captions" for split, own in counts.items()
        )
        return svg(figure, "words", "Captions by number of words", f"{said}.")


def _ends(curve: pd.DataFrame) -> str:
    columns = loss_columns(curve)
    values = curve[columns[0]].dropna()
    first, last = curve["step"].iloc[[0, -1]]
    return f"{values.iloc[0]:.3g} at step {first} to {values.iloc[-1]:.3g} at step {last}"


def svg(figure: Figure, name: str, title: str, description: str) -> Markup:
    """Render `figure` as an accessible inline SVG element, without prolog, metadata, fixed size or page-wide style."""
    file = io.StringIO()
    nothing: dict[str, Any] = {key: None for key in ("Date", "Creator", "Format", "Type")}
    with matplotlib.rc_context(STYLE):
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    body = file.getvalue()
    width, height = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', body).groups()  # type: ignore[union-attr]
    body = body[body.index(">", body.index("<svg")) + 1 :]
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r"font-family: [^;\"]*", "font-family: inherit", body)
    body = re.sub(r'(font: [^;"]*?[\d.]+px) [^;"]*', r"\1 inherit", body)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = body.replace('xlink:href="#', f'href="#{name}-').replace("url(#", f"url(#{name}-")
    for variable, placeholder in PLACEHOLDERS.items():
        body = body.replace(placeholder, f"var(--{variable})")
    head = (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-labelledby="{name}-title {name}-description" '
        f'style="max-width: {float(width) * 1.35:.0f}px">'
        f'<title id="{name}-title">{escape(title)}</title><desc id="{name}-description">{escape(description)}</desc>'
    )
    return Markup(head + body)
