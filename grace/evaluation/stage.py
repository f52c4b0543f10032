"""The stages `evaluate` (from one system's run to its metrics) and `metrics` (the metrics of all systems in one list).

`evaluate` reads {d}/dataset/ (tables and qrels.trec), run.trec, retrieval.json and the baseline's run.trec, writes
metrics.json and, next to it, per_query.parquet (query_id, image_id, one column per measure). A run of another method has no
retrieval.json and gets a name instead (`grace.evaluation.foreign`). `metrics` reads such files, compares all
systems with the baseline (`grace.evaluation.comparison`) and writes results/metrics.json.

    python -m grace evaluate --dataset DIR --run FILE --retrieval FILE [--baseline FILE] --output FILE --settings JSON
    python -m grace evaluate --dataset DIR --run FILE --name NAME [--baseline FILE] --output FILE --settings JSON
    python -m grace metrics FILES... --output FILE
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from grace.data.tables import load_dataset
from grace.evaluation.comparison import add_comparisons
from grace.evaluation.foreign import KEY, foreign_report, read_foreign_run
from grace.evaluation.foreign import SETTING as FOREIGN_SETTING
from grace.evaluation.measures import DEPTH, MEASURES, check_run, gold_images, per_query
from grace.evaluation.rows import check_keys, check_row
from grace.evaluation.significance import bootstrap_intervals, paired_p_values
from grace.records.stage import stage
from grace.retrieval.runs import read_qrels, read_run
from grace.system.errors import GraceError
from grace.system.files import read_json, read_table, write_json, write_table
from grace.system.progress import say
from grace.workflow.config import Evaluate

SETTING = "transductive corpus, unseen queries"
PER_QUERY = "per_query.parquet"
PER_QUERY_COLUMNS = ["query_id", "image_id", *MEASURES]
RESAMPLES, SEED = 10_000, 0
"""For the comparison of all systems: enough to find p < 0.01 after Holm's correction for dozens of systems."""
RETRIEVAL_KEYS = ("scheme", "seed", "queries", "valid_rate", "memorization")


@stage("evaluate", outputs=lambda output: [output, output.with_name(PER_QUERY)])
def evaluate(
    *,
    dataset: Path,
    run: Path,
    retrieval: Path | None = None,
    name: str | None = None,
    baseline: Path | None = None,
    output: Path,
    settings: Evaluate,
) -> dict[str, Any]:
    """Measure one run against the qrels of `dataset` and write `output`; return what was written.

    All numbers are fractions. Give `retrieval`, the report, for a system of this workflow, or `name` for a run of another
    method. `baseline`: the dual encoder's run to compare with; None for the baseline itself. Raises `GraceError` for unknown
    queries or images in the run, and if retrieval.json and the qrels disagree on the number of queries.
    """
    dataset = Path(dataset)
    tables = load_dataset(dataset)
    qrels = read_qrels(dataset / "qrels.trec")
    gallery = set(tables.gallery.image_id)
    gold = gold_images(qrels)
    strange = gold[~gold.isin(gallery)]
    if len(strange):
        raise GraceError(
            f"{dataset / 'qrels.trec'}: image {strange.iloc[0]} of query {strange.index[0]} is not in the gallery"
        )
    say(f"{len(gold):,} queries, {len(gallery):,} images; {settings.resamples:,} resamples")
    if retrieval is not None and name is None:
        own_run, report = _own_run(run, retrieval, dataset, qrels, gallery)
    elif name is not None and retrieval is None:
        own_run = read_foreign_run(run, qrels, gallery)
        report = foreign_report(name, run, own_run)
    else:
        raise GraceError(
            "evaluate: give --retrieval for a system of this workflow, or --name for a run of another method"
        )
    clusters = gold.to_numpy()
    values = per_query(qrels, own_run)
    draws = {"resamples": settings.resamples, "seed": settings.seed}
    intervals = bootstrap_intervals(values.to_numpy(), clusters, confidence=settings.confidence, **draws)
    versus = None
    if baseline is not None:
        other = per_query(qrels, _read_checked_run(baseline, qrels, gallery))
        difference = values.to_numpy() - other.to_numpy()
        bounds = bootstrap_intervals(difference, clusters, confidence=settings.confidence, **draws)
        p_values = paired_p_values(difference, clusters, **draws)
        versus = {
            name: {"difference": float(mean), "interval": [float(low), float(high)], "p_value": float(p)}
            for name, mean, (low, high), p in zip(MEASURES, difference.mean(axis=0), bounds, p_values, strict=True)
        }
    memorization = report["memorization"]
    row = {
        "dataset": tables.summary["name"],
        "system": report["scheme"],
        "seed": report["seed"],
        "queries": len(values),
        **{name: float(values[name].mean()) for name in MEASURES},
        "intervals": {name: [float(low), float(high)] for name, (low, high) in zip(MEASURES, intervals, strict=True)},
        "memorization": None if memorization is None else float(memorization["rate"]),
        "valid_rate": report["valid_rate"],
        "versus_baseline": versus,
        "confidence": settings.confidence,
        "setting": FOREIGN_SETTING if KEY in report else SETTING,
        "split": "test",
        "gallery": len(gallery),
        "depth": report.get("depth"),
        "unanswered_queries": int((~values.index.isin(set(own_run.query_id))).sum()),
        **({KEY: report[KEY]} if KEY in report else {}),
    }
    table = values.rename_axis("query_id").reset_index()
    table.insert(1, "image_id", clusters)
    write_table(Path(output).with_name(PER_QUERY), table)
    write_json(output, row)
    return row


def _with_values(given: dict[str, Any]) -> dict[str, Path]:
    files = [*given["files"], *(Path(file).with_name(PER_QUERY) for file in given["files"])]
    return {str(file): Path(file) for file in files}


@stage("metrics", reads=_with_values)
def metrics(*, files: Sequence[Path], output: Path) -> list[dict[str, Any]]:
    """Collect the metrics of all systems in one list, in the order of `files`, each with its comparison with the baseline.

    Also reads the `per_query.parquet` next to every file. Writes the list to `output` and returns it.
    """
    rows = [read_row(file) for file in files]
    if not rows:
        raise GraceError("metrics: no files were given; give the metrics.json of every system")
    seen: dict[tuple[Any, ...], Path] = {}
    for file, row in zip(files, rows, strict=True):
        key = (row["dataset"], row["system"], row["seed"])
        if key in seen:
            raise GraceError(
                f"metrics: {seen[key]} and {file} hold the same system ({key[0]}, {key[1]}, seed {key[2]})"
            )
        seen[key] = file
    say(f"{len(rows)} systems; {RESAMPLES:,} resamples")
    values = [read_table(Path(file).with_name(PER_QUERY), "values of every query", PER_QUERY_COLUMNS) for file in files]
    add_comparisons(rows, values, RESAMPLES, SEED)
    write_json(output, rows)
    return rows


def read_row(file: Path) -> dict[str, Any]:
    """Read the metrics of one system; `GraceError` if a key is missing or has the wrong type."""
    row = read_json(file, "metrics file")
    check_row(row, f"metrics file {file}")
    return row


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Read metrics.json of all systems (a list) or of one system (an object, returned as a list of one)."""
    rows = read_json(file, "metrics file")
    rows = [rows] if isinstance(rows, dict) else rows
    if not isinstance(rows, list) or not rows:
        raise GraceError(f"metrics file {file} holds no rows; make it with `python -m grace metrics`")
    for number, row in enumerate(rows):
        check_row(row, f"metrics file {file}, row {number + 1}")
    return rows


def _own_run(
    path: Path, retrieval: Path, dataset: Path, qrels: pd.DataFrame, gallery: set[str]
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """A run of this workflow and its retrieval report, checked against each other and the data set."""
    report = _read_object(retrieval, "retrieval report", RETRIEVAL_KEYS)
    queries = qrels.query_id.nunique()
    if report["queries"] != queries:
        raise GraceError(
            f"retrieval report {retrieval} has {report['queries']} queries, the qrels {dataset / 'qrels.trec'} "
            f"{queries}: they belong to different runs; retrieve again"
        )
    if report.get("depth") is not None and report["depth"] < min(DEPTH, len(gallery)):
        raise GraceError(
            f"retrieval report {retrieval}: only {report['depth']} images per query were kept, and R@{DEPTH} needs "
            f"{DEPTH}; set retrieve.depth to {DEPTH} at least and retrieve again"
        )
    run = _read_checked_run(path, qrels, gallery)
    _check_belongs(run, path, report, retrieval, queries)
    return run, report


def _read_checked_run(path: Path, qrels: pd.DataFrame, gallery: set[str]) -> pd.DataFrame:
    run = read_run(path)
    check_run(run, qrels, gallery, f"run {path}")
    return run


def _check_belongs(run: pd.DataFrame, path: Path, report: dict[str, Any], retrieval: Path, queries: int) -> None:
    """Reject a run that is truncated, or that belongs to another retrieval report."""
    strange = run.tag[run.tag != report["scheme"]]
    if len(strange):
        raise GraceError(
            f"run {path} is of {strange.iloc[0]}, retrieval report {retrieval} of {report['scheme']}; give matching files"
        )
    unanswered = queries - run.query_id.nunique()
    if report.get("failed_queries") is not None and unanswered != report["failed_queries"]:
        raise GraceError(
            f"run {path} has no answer for {unanswered} queries, retrieval report {retrieval} states "
            f"{report['failed_queries']}: the run is truncated, or belongs to another report; retrieve again"
        )


def _read_object(path: Path, what: str, keys: Sequence[str]) -> dict[str, Any]:
    value = read_json(path, what)
    check_keys(value, keys, f"{what} {path}")
    return value
