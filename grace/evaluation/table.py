"""The Recall table: for the terminal, or as Markdown, LaTeX or CSV.

Reads results/metrics.json (or the metrics.json of one system), prints to standard output:

    python -m grace table --metrics results/metrics.json --format text

A system with several seeds has one row per seed, and one with their mean and standard deviation. The latter has the test
against the baseline, which treats seeds as repetitions (`grace.evaluation.comparison`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from rich.console import Console

from grace.evaluation.comparison import against_baseline, corrected_for, is_significant
from grace.evaluation.foreign import foreign_notes
from grace.evaluation.measures import MEASURES
from grace.evaluation.sheets import Cell, Sheet, csv_text, latex, markdown, print_sheet
from grace.evaluation.stage import read_rows
from grace.workflow.config.results import OWN_SYSTEMS

NONE = "–"
RATES = {"memorised": "memorization", "valid": "valid_rate"}


def show(metrics: Path, form: str = "text", console: Console | None = None) -> None:
    """Print one table for each data set in the file, in one of the formats `grace.evaluation.sheets.FORMATS`.

    Percent, with intervals and the difference from the baseline; CSV has every value of every run, as fractions in full
    precision.
    """
    # emoji and markup off: names of systems and data sets are printed as they are.
    console = console or Console(highlight=False, emoji=False, markup=False)
    found = read_rows(metrics)
    rows = sorted(found, key=row_order)
    if form == "csv":
        print(csv_text(rows), end="")
        return
    for number, dataset in enumerate(dict.fromkeys(row["dataset"] for row in found)):
        sheet = recall_sheet(dataset, [row for row in rows if row["dataset"] == dataset])
        if form == "text":
            print_sheet(sheet, console)
        else:
            print("\n" * (number > 0) + (latex(sheet) if form == "latex" else markdown(sheet)), end="")


def row_order(row: dict[str, Any]) -> tuple[int, str, int]:
    """Sort key of a row: the baseline, the schemes in the order of the paper, runs of other methods; then the seed."""
    system = row["system"]
    return (OWN_SYSTEMS.index(system) if system in OWN_SYSTEMS else len(OWN_SYSTEMS), system, row["seed"] or 0)


def label(row: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """Name of a row: the system, with its seed if the system has more than one row."""
    several = sum(other["system"] == row["system"] for other in rows) > 1
    return f"{row['system']}, seed {row['seed']}" if several else row["system"]


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def p_text(p_value: float) -> str:
    return "<0.001" if p_value < 0.001 else f"{p_value:.3f}"


def notes(rows: list[dict[str, Any]]) -> list[str]:
    """Notes that explain the numbers: setting, split, queries, measures, intervals and test."""
    first = rows[0]
    counts = " or ".join(str(queries) for queries in dict.fromkeys(row["queries"] for row in rows))
    gallery = f" against a gallery of {first['gallery']} images" if first.get("gallery") else ""
    level = f"{100 * first['confidence']:g} %"
    said = [
        f"Setting: {first['setting']}. Split {first.get('split', 'test')}: {counts} queries{gallery}; "
        "a query without an answer counts as a miss.",
        f"In percent. R@K is Recall@K, here the same as Success@K (one relevant image), with {level} intervals "
        "(bootstrap, by image).",
    ]
    if len({row["system"] for row in rows}) < len(rows):
        said.append("Systems with several seeds also have their mean, with the standard deviation over seeds.")
    how = corrected_for(rows)
    if how:
        said.append(f"vs. baseline: difference of R@1 in points; * marks p < {1 - first['confidence']:.2g}. {how}")
    chance = chance_level(first)
    if chance:
        said.append(chance)
    return said + foreign_notes(rows)


def chance_level(row: dict[str, Any]) -> str:
    """What random answers would score in a gallery of this size, if R@10 would be a tenth or more; else empty."""
    gallery = row.get("gallery") or 0
    if not gallery or gallery > 100:
        return ""
    levels = " / ".join(f"{100 * min(1.0, depth / gallery):.1f}" for depth in (1, 5, 10))
    return f"The gallery is small: random answers would score {levels} in R@1 / R@5 / R@10."


def recall_sheet(dataset: str, rows: list[dict[str, Any]]) -> Sheet:
    """The table of one data set: its rows in order, and for a system with several seeds their mean below them.

    The best of a column is the system with the highest value, or mean if it has several seeds: no single seed is picked.
    """
    systems = {
        name: [row for row in rows if row["system"] == name] for name in dict.fromkeys(r["system"] for r in rows)
    }
    means = {
        name: {measure: mean(row[measure] for row in own) for measure in MEASURES} for name, own in systems.items()
    }
    best = {name: max(of[name] for of in means.values()) if len(means) > 1 else None for name in MEASURES}
    lines: list[tuple[str, list[Cell]]] = []
    for name, own in systems.items():
        for row in own:
            lines.append((label(row, rows), _cells(row, best if len(own) == 1 else {}, len(own))))
        if len(own) > 1:
            lines.append((f"{name}, mean of {len(own)}", _mean_cells(own, means[name], best)))
    head = (*MEASURES, "vs. baseline", *RATES)
    return Sheet(f"Text-to-image retrieval on {dataset}", head, lines, notes(rows))


def _cells(row: dict[str, Any], best: dict[str, float | None], seeds: int) -> list[Cell]:
    values = [
        Cell(_shown(row[name]), "–".join(map(_shown, row["intervals"][name])), best.get(name) == row[name])
        for name in MEASURES
    ]
    versus = _versus(row) if seeds == 1 else _difference(row)
    return [*values, versus, *(Cell(_shown(row[key])) for key in RATES.values())]


def _mean_cells(own: Sequence[dict[str, Any]], means: dict[str, float], best: dict[str, float | None]) -> list[Cell]:
    values = [
        Cell(_shown(means[name]), f"± {_shown(stdev(row[name] for row in own))}", best[name] == means[name])
        for name in MEASURES
    ]
    rates = []
    for key in RATES.values():
        known = [row[key] for row in own if row[key] is not None]
        rates.append(Cell(_shown(mean(known) if len(known) == len(own) else None)))
    return [*values, _versus(own[0]), *rates]


def _shown(value: float | None) -> str:
    return NONE if value is None else percent(value)


def _versus(row: dict[str, Any]) -> Cell:
    """The comparison of a system, over all its seeds, with the baseline."""
    found = against_baseline(row, "R@1")
    if found is None:
        return Cell(NONE)
    mark = "*" if is_significant(found, row["confidence"]) else ""
    return Cell(f"{_signed(found['difference'])}{mark}", f"p {p_text(found['p'])}")


def _difference(row: dict[str, Any]) -> Cell:
    """The difference of one of several seeds, which is not tested by itself."""
    return Cell(_signed(row["versus_baseline"]["R@1"]["difference"]) if row["versus_baseline"] else NONE)


def _signed(fraction: float) -> str:
    return f"{100 * fraction:+.1f}".replace("-", "−")
