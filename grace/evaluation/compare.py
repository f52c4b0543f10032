"""Compare two TREC runs: measures with intervals, the paired difference, and how many queries each run wins.

Reads two runs and qrels (or a data set's folder), prints to standard output:

    python -m grace compare A.trec B.trec --dataset results/scenes/dataset --measures R@1,MRR@10 --format text

Intervals and the test are those of `evaluate` (`grace.evaluation.significance`): images are resampled, because the captions
of one image are not independent. The p-values are not corrected for the number of measures.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from grace.data.tables import load_dataset
from grace.evaluation.foreign import read_foreign_run
from grace.evaluation.measures import MEASURES, gold_images, gold_ranks
from grace.evaluation.sheets import Cell, Sheet, csv_text, latex, markdown, print_sheet
from grace.evaluation.significance import bootstrap_intervals, paired_p_values
from grace.evaluation.table import p_text, percent
from grace.retrieval.runs import read_qrels
from grace.system.errors import GraceError, did_you_mean
from grace.system.printable import escaped
from grace.workflow.config import Evaluate


@dataclass(frozen=True)
class Comparison:
    """The result of `compare`."""

    runs: tuple[Path, Path]
    queries: int
    images: int
    """relevant images: the units that the intervals and the test resample"""
    unanswered: tuple[int, int]
    """queries that a run does not answer, counted as misses"""
    missed: tuple[bool, bool]
    """whether a run finds no relevant image at any rank"""
    depths: tuple[int, int]
    """the most images that a run has for a query"""
    measures: list[dict[str, Any]]
    """for each measure: measure, a, b, difference (a - b), their intervals, p_value; queries a_better, b_better, equal"""


def compare(
    runs: tuple[Path, Path],
    *,
    qrels: Path | None = None,
    dataset: Path | None = None,
    measures: Sequence[str] = MEASURES,
    settings: Evaluate,
) -> Comparison:
    """Compare two runs over all queries of `qrels`, or of the data set in the folder `dataset`, as fractions.

    `measures`: R@K or MRR@K with any K. With `dataset` the images of the runs must be in its gallery; qrels alone do
    not define the gallery. Raises `GraceError` for unknown queries in a run, and for queries with several relevant images.
    """
    if (qrels is None) == (dataset is None):
        raise GraceError("compare: give either --qrels FILE or --dataset DIR, for the relevant images")
    parsed = [parse_measure(name) for name in measures]
    if not parsed:
        raise GraceError("compare: give at least one measure, such as R@1")
    gallery = None if dataset is None else set(load_dataset(dataset).gallery.image_id)
    relevant = read_qrels(qrels if dataset is None else dataset / "qrels.trec")
    gold = gold_images(relevant)
    tables = [read_foreign_run(path, relevant, gallery) for path in runs]
    ranks = [gold_ranks(relevant, table).to_numpy() for table in tables]
    a_QM, b_QM = (np.stack([_values(of, *measure) for measure in parsed], axis=1) for of in ranks)
    draws = {"resamples": settings.resamples, "seed": settings.seed}
    a_bounds, b_bounds, bounds = (
        bootstrap_intervals(values, gold.to_numpy(), confidence=settings.confidence, **draws).tolist()
        for values in (a_QM, b_QM, a_QM - b_QM)
    )
    p_values = paired_p_values(a_QM - b_QM, gold.to_numpy(), **draws)
    found = [
        {
            "measure": name, "a": float(a_QM[:, place].mean()), "a_interval": a_bounds[place],
            "b": float(b_QM[:, place].mean()), "b_interval": b_bounds[place],
            "difference": float((a_QM - b_QM)[:, place].mean()), "interval": bounds[place],
            "p_value": float(p_values[place]), "a_better": int((a_QM > b_QM)[:, place].sum()),
            "b_better": int((a_QM < b_QM)[:, place].sum()), "equal": int((a_QM == b_QM)[:, place].sum()),
        }
        for place, name in enumerate(measures)
    ]  # fmt: skip
    return Comparison(
        runs=runs,
        queries=len(gold),
        images=gold.nunique(),
        unanswered=_pair([len(gold) - table.query_id.nunique() for table in tables]),
        missed=_pair([not of.any() for of in ranks]),
        depths=_pair([int(table["rank"].max()) for table in tables]),
        measures=found,
    )


def parse_measure(name: str) -> tuple[str, int]:
    """("R" or "MRR", K) of a measure's name; `GraceError` for another name."""
    found = re.fullmatch(r"(R|MRR)@([1-9]\d{0,5})", name)
    if not found:
        raise GraceError(f"measure {name!r} is not R@K or MRR@K{did_you_mean(name, MEASURES)}")
    return found[1], int(found[2])


def _values(ranks_Q: np.ndarray, kind: str, depth: int) -> np.ndarray:
    """One measure per query, from the rank of its image (0: not found): float64 [queries]."""
    hit_Q = (ranks_Q > 0) & (ranks_Q <= depth)
    return np.where(hit_Q, 1.0 if kind == "R" else 1.0 / np.maximum(ranks_Q, 1), 0.0)


def _pair(values: Sequence[Any]) -> tuple[Any, Any]:
    first, second = values
    return first, second


def show(found: Comparison, settings: Evaluate, form: str = "text", console: Console | None = None) -> None:
    """Print a comparison in one of the formats `grace.evaluation.sheets.FORMATS`."""
    if form == "csv":
        print(csv_text([{**row, "queries": found.queries} for row in found.measures]), end="")
    elif form == "text":
        console = console or Console(highlight=False, emoji=False, markup=False)
        print_sheet(comparison_sheet(found, settings), console)
    else:
        sheet = comparison_sheet(found, settings)
        print(latex(sheet) if form == "latex" else markdown(sheet), end="")


def comparison_sheet(found: Comparison, settings: Evaluate) -> Sheet:
    """The table of a comparison, one column per measure, in percent and points."""
    rows = found.measures
    lines = [
        (name, [_cell(row, key, row[key] > row[other]) for row in rows])
        for name, key, other in (("A", "a", "b"), ("B", "b", "a"))
    ]
    lines += [
        ("A − B", [Cell(_signed(row["difference"]), " to ".join(map(_signed, row["interval"]))) for row in rows]),
        ("p", [Cell(p_text(row["p_value"])) for row in rows]),
        *(
            (label, [Cell(f"{row[key]:,}") for row in rows])
            for label, key in (("A better", "a_better"), ("B better", "b_better"), ("equal", "equal"))
        ),
    ]
    return Sheet("Two runs compared", [row["measure"] for row in rows], lines, _notes(found, settings), corner="")


def _cell(row: dict[str, Any], key: str, best: bool) -> Cell:
    return Cell(percent(row[key]), "–".join(map(percent, row[f"{key}_interval"])), best)


def _notes(found: Comparison, settings: Evaluate) -> list[str]:
    said = []
    for name, path, unanswered, missed in zip("AB", found.runs, found.unanswered, found.missed, strict=True):
        note = f"{name}: {escaped(str(path))}."
        if unanswered:
            note += f" No answer for {unanswered:,} of {found.queries:,} queries; they count as misses."
        if missed:
            note += " It finds no relevant image at all: does it use the image ids of the qrels?"
        said.append(note)
    deepest = max(parse_measure(row["measure"])[1] for row in found.measures)
    shallow = [f"{name} keeps {depth}" for name, depth in zip("AB", found.depths, strict=True) if depth < deepest]
    if shallow:
        said.append(f"Images per query at most: {', '.join(shallow)}. Lower ranks count as misses.")
    level = f"{100 * settings.confidence:g} %"
    said.append(
        f"In percent of {found.queries:,} queries, A − B in points, with {level} intervals (bootstrap of "
        f"{found.images:,} images, {settings.resamples:,} resamples). p: paired permutation test, by image, two-sided, "
        "not corrected for the number of measures. Below it, the number of queries on which one run is better."
    )
    return said


def _signed(fraction: float) -> str:
    return f"{100 * fraction:+.1f}".replace("-", "−")
