"""Runs of other methods: the checks on a TREC file from outside, and its row of metrics.json.

Reads a run that `runs` in the configuration names; used by `python -m grace evaluate --name` and `compare`.

The file is read by the same rules as our own runs (`grace.retrieval.runs.read_run`: ranks 1, 2, 3 ..., strictly
decreasing scores, no image twice). Its queries and images must be those of the data set. A query without an answer is a miss.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from grace.evaluation.measures import DEPTH
from grace.records.sidecars.hashes import manifest
from grace.retrieval.runs import read_run
from grace.system.errors import GraceError
from grace.system.printable import escaped
from grace.workflow.config.results import check_run_name

KEY = "run_file"
"""Key that only the rows of such runs have: {"path": as given, "sha256": of the file}."""
SETTING = "not known: a run of another method"


def read_foreign_run(path: Path, qrels: pd.DataFrame, gallery: set[str] | None) -> pd.DataFrame:
    """Read another method's run with `read_run`, and check its ids.

    `gallery`: the images that may be found; None: not known, so images are not checked. Raises `GraceError`, with the
    line number, for a query that is not in `qrels`, an image outside the gallery, and anything that `read_run` rejects; also
    for an empty run.
    """
    run = read_run(path)
    if run.empty:
        raise GraceError(f"run {path} is empty; it answers no query")
    _check_ids(path, run.query_id, 0, set(qrels.query_id), "query", "the qrels")
    if gallery is not None:
        _check_ids(path, run.doc_id, 2, gallery, "image", "the gallery")
    return run


def _check_ids(path: Path, ids: pd.Series, field: int, known: set[str], what: str, where: str) -> None:
    strange = ids[~ids.isin(known)]
    if len(strange):
        word, line = _first_line(path, field, set(strange))
        others = "" if len(strange) == 1 else f" ({len(strange)} such lines)"
        raise GraceError(
            f"run {path}, line {line}: {what} {word} is not in {where}{others}, which has ids such as {min(known)}; "
            "use the ids of the data set's split test"
        )


def _first_line(path: Path, field: int, words: set[str]) -> tuple[str, int]:
    """The first of `words` that appears in field `field` of the file, and its line number."""
    with open(path, encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            fields = line.split()
            if fields and fields[field] in words:
                return fields[field], number
    raise GraceError(f"run {path} changed while it was being read; run the command again")


def foreign_report(name: str, path: Path, run: pd.DataFrame) -> dict[str, Any]:
    """The substitute for a retrieval report: name, depth and file; None for what is not known of another method."""
    try:
        check_run_name(name)
    except ValueError as error:
        raise GraceError(f"run {path}: {error}") from None
    return {
        "scheme": name,
        "seed": None,
        "depth": int(run["rank"].max()),
        "valid_rate": None,
        "memorization": None,
        KEY: {"path": str(path), "sha256": manifest(Path(path))[Path(path).name]["sha256"]},
    }


def is_foreign(row: dict[str, Any]) -> bool:
    """Whether a row of metrics.json is of a run of another method."""
    return KEY in row


def foreign_notes(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A note for each row of another method: its file, and what is missing from it."""
    said = []
    for row in filter(is_foreign, rows):
        path = escaped(row[KEY]["path"])
        note = f"{row['system']}: a run of another method ({path}); what its model has seen is not known."
        if row["unanswered_queries"]:
            missing = f"{row['unanswered_queries']:,} of {row['queries']:,}"
            note += f" It has no answer for {missing} queries; they count as misses."
        if row["depth"] < min(DEPTH, row["gallery"]):
            images = "1 image" if row["depth"] == 1 else f"{row['depth']} images"
            note += f" It keeps at most {images} per query; lower ranks count as misses."
        said.append(note)
    return said
