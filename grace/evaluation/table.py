"""The Recall table on the terminal.

Reads results/metrics.json (or the metrics.json of one system), writes to the standard output:

    python -m grace table --metrics results/metrics.json
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from grace.evaluation.comparison import against_baseline, corrected_for, is_significant
from grace.evaluation.measures import MEASURES
from grace.evaluation.stage import read_rows
from grace.workflow.schemes import SCHEMES

ORDER = ("baseline", *SCHEMES)


def show(metrics: Path, console: Console | None = None) -> None:
    """Print one table for every data set of the file: percent, intervals below, the difference from the baseline."""
    # emoji and markup off: names of systems and data sets are printed as they are.
    console = console or Console(highlight=False, emoji=False, markup=False)
    rows = read_rows(metrics)
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        own = sorted((row for row in rows if row["dataset"] == dataset), key=row_order)
        console.print(_table(dataset, own))
        for note in notes(own):
            console.print(note)


def row_order(row: dict[str, Any]) -> tuple[int, str, int]:
    """Sort key of a row: the baseline, then the schemes in the order of the paper, then the seed."""
    system = row["system"]
    return (ORDER.index(system) if system in ORDER else len(ORDER), system, row["seed"] or 0)


def label(row: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """Name of a row: the system, and its seed where the system stands there more than once."""
    several = sum(other["system"] == row["system"] for other in rows) > 1
    return f"{row['system']}, seed {row['seed']}" if several else row["system"]


def percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def p_text(p_value: float) -> str:
    return "<0.001" if p_value < 0.001 else f"{p_value:.3f}"


def notes(rows: list[dict[str, Any]]) -> list[str]:
    """What the numbers are, in sentences: setting, split, queries, measures, intervals and test."""
    first = rows[0]
    counts = " or ".join(str(queries) for queries in dict.fromkeys(row["queries"] for row in rows))
    gallery = f" against a gallery of {first['gallery']} images" if first.get("gallery") else ""
    level = f"{100 * first['confidence']:g} %"
    said = [
        f"Setting: {first['setting']}. Split {first.get('split', 'test')}: {counts} queries{gallery}; "
        "a query without an answer counts as a miss.",
        f"In percent. R@K is Recall@K, here the same as Success@K (one relevant image); below it, {level} intervals "
        "(bootstrap, by image).",
    ]
    how = corrected_for(rows)
    if how:
        said.append(f"vs. baseline: difference of R@1 in points; * marks p < {1 - first['confidence']:.2g}. {how}")
    chance = chance_level(first)
    if chance:
        said.append(chance)
    return said


def chance_level(row: dict[str, Any]) -> str:
    """What random answers would score in a gallery of this size, where that is worth saying: a tenth at R@10 or more."""
    gallery = row.get("gallery") or 0
    if not gallery or gallery > 100:
        return ""
    levels = " / ".join(f"{100 * min(1.0, depth / gallery):.1f}" for depth in (1, 5, 10))
    return f"The gallery is small: random answers would score {levels} in R@1 / R@5 / R@10."


def _table(dataset: str, rows: list[dict[str, Any]]) -> Table:
    # rich replaces the lines by ASCII where the terminal cannot show them.
    # Everything stands in 80 columns: the width of a narrow terminal and of a log.
    title = f"Text-to-image retrieval on {dataset}"
    out = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    out.add_column("system")
    for name in MEASURES:
        out.add_column(name, justify="right")
    for name in ("vs. base\nline", "memor-\nised", "valid"):
        out.add_column(name, justify="right")
    for row in rows:
        out.add_row(
            label(row, rows).replace(", ", "\n"),
            *(
                f"{percent(row[name])}\n{'-'.join(percent(bound) for bound in row['intervals'][name])}"
                for name in MEASURES
            ),
            _versus(row),
            percent(row["memorization"]),
            percent(row["valid_rate"]),
        )
    return out


def _versus(row: dict[str, Any]) -> str:
    found = against_baseline(row, "R@1")
    if found is None:
        return "-"
    mark = "*" if is_significant(found, row["confidence"]) else ""
    return f"{100 * found['difference']:+.1f}{mark}\np {p_text(found['p'])}"
