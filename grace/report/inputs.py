"""What the report reads from the results folder, checked for consistency.

Reads {results}/metrics.json and, for the configuration's data set, {d}/dataset/, {d}/embeddings/,
{d}/{tower,captioner}/metrics.jsonl, {d}/baseline/ and {d}/{scheme}/seed{n}/ {run.trec, retrieval.json, identifiers/,
model/metrics.jsonl}, the runs of other methods listed under `runs` in the configuration,
{results}/benchmarks/**.tsv (Snakemake's), and the records of the jobs. Part of `python -m grace report`.

Metrics, runs and retrieval reports are required. Embeddings, training curves, statistics of identifiers, benchmarks and records are
optional: they are None if missing, and the page says so.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from grace.data.tables import DatasetTables, load_dataset
from grace.evaluation.foreign import KEY as RUN_FILE
from grace.evaluation.foreign import is_foreign
from grace.evaluation.measures import gold_images, gold_ranks
from grace.evaluation.stage import read_rows
from grace.evaluation.table import label, row_order
from grace.records.sidecars.hashes import manifest
from grace.report.jobs import Job, read_jobs
from grace.retrieval.runs import read_qrels, read_run
from grace.system.errors import GraceError
from grace.system.files import read_array, read_json, read_table
from grace.workflow.config import Config

BASELINE = "baseline"


@dataclass(frozen=True)
class System:
    """One row of the Recall table and all data that belongs to it."""

    row: dict[str, Any]
    label: str
    run: pd.DataFrame
    """query_id, doc_id, rank, score"""
    ranks: pd.Series
    """rank of every query's picture, 0 where it was not found; indexed by query_id"""
    retrieval: dict[str, Any]
    statistics: dict[str, Any] | None
    identifiers: pd.DataFrame | None
    """image_id, text"""
    curve: pd.DataFrame | None

    @property
    def name(self) -> str:
        return self.row["system"]

    @property
    def is_baseline(self) -> bool:
        return self.name == BASELINE

    @property
    def is_generative(self) -> bool:
        """Whether it is a scheme of this workflow: one with identifiers and a training."""
        return not self.is_baseline and not is_foreign(self.row)


@dataclass(frozen=True)
class Inputs:
    """Everything on the page."""

    config: Config
    dataset: DatasetTables
    gold: pd.Series
    """image_id of every query, indexed by query_id"""
    systems: list[System]
    shared_curves: dict[str, pd.DataFrame | None]
    """training curves of the parts that all systems share: "dual encoder", "captioner" """
    vectors: np.ndarray | None
    """image embeddings f32 [N, D], a memory map; None if the folder is missing"""
    jobs: list[Job]
    """from their records; empty if the records are missing"""
    benchmarks: pd.DataFrame | None
    """stage, where, seconds, cpu_seconds, memory_mb (nan where Snakemake measured nothing)"""


def read_inputs(config: Config, results: Path) -> Inputs:
    """Read the results of `config`; `GraceError` if a required file is missing or files contradict each other."""
    folder = results / config.dataset.name
    dataset = load_dataset(folder / "dataset")
    qrels = read_qrels(folder / "dataset" / "qrels.trec")
    metrics = results / "metrics.json"
    rows = sorted((row for row in read_rows(metrics) if row["dataset"] == config.dataset.name), key=row_order)
    have = {(row["system"], row["seed"]) for row in rows}
    for scheme in config.schemes:
        for seed in config.seeds:
            if (scheme, seed) not in have:
                raise GraceError(f"{metrics} has no row of {scheme}, seed {seed}; evaluate it and make the list again")
    _check_runs(config, rows, metrics)
    if not any(row["system"] == BASELINE for row in rows):
        raise GraceError(
            f"{metrics} has no row of the baseline of {config.dataset.name}; evaluate it and make the list again"
        )
    return Inputs(
        config=config,
        dataset=dataset,
        gold=gold_images(qrels),
        systems=[_system(row, rows, folder, qrels, config) for row in rows],
        shared_curves={
            "dual encoder": read_curve(folder / "tower" / "metrics.jsonl"),
            "captioner": read_curve(folder / "captioner" / "metrics.jsonl"),
        },
        vectors=_vectors(folder / "embeddings" / "image_embeddings.npy", len(dataset.images)),
        jobs=read_jobs(results, config.dataset.name),
        benchmarks=read_benchmarks(results / "benchmarks", config.dataset.name),
    )


def _check_runs(config: Config, rows: list[dict[str, Any]], metrics: Path) -> None:
    """Check that the runs of other methods in the metrics are those that the configuration lists."""
    foreign = [row["system"] for row in rows if is_foreign(row)]
    for name in config.runs:
        if name not in foreign:
            raise GraceError(f"{metrics} has no row of the run {name}; evaluate it and make the list again")
    for name in foreign:
        if name not in config.runs:
            raise GraceError(
                f"{metrics} has a row of the run {name}, which `runs` in the configuration does not list; "
                "make the list again"
            )


def _system(
    row: dict[str, Any], rows: list[dict[str, Any]], folder: Path, qrels: pd.DataFrame, config: Config
) -> System:
    own = folder / BASELINE if row["system"] == BASELINE else folder / row["system"] / f"seed{row['seed']}"
    file = Path(config.runs[row["system"]]) if is_foreign(row) else own / "run.trec"
    run = read_run(file)
    ranks = gold_ranks(qrels, run)
    if len(ranks) != row["queries"] or abs((ranks == 1).mean() - row["R@1"]) > 1e-9:
        raise GraceError(f"{file} has a different R@1 from the one in metrics.json; evaluate again")
    if is_foreign(row):
        if manifest(file)[file.name]["sha256"] != row[RUN_FILE]["sha256"]:
            raise GraceError(f"run {file} changed after it was evaluated; evaluate it again")
        known = {"queries": row["queries"], "depth": row["depth"], "failed_queries": row["unanswered_queries"]}
        return System(row, label(row, rows), run, ranks, known, statistics=None, identifiers=None, curve=None)
    identifiers = own / "identifiers"
    return System(
        row=row,
        label=label(row, rows),
        run=run,
        ranks=ranks,
        retrieval=_object(own / "retrieval.json", "retrieval report"),
        statistics=_object(identifiers / "statistics.json", "identifier statistics")
        if (identifiers / "statistics.json").exists()
        else None,
        identifiers=read_table(identifiers / "identifiers.parquet", "table of identifiers", ["image_id", "text"])
        if (identifiers / "identifiers.parquet").exists()
        else None,
        curve=read_curve(own / "model" / "metrics.jsonl"),
    )


def read_curve(path: Path) -> pd.DataFrame | None:
    """Read a training log: step and every number logged, sorted by step; the last line of a step counts; None if
    missing."""
    if not path.exists():
        return None
    lines = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise GraceError(f"training log {path}, line {number} is not valid JSON ({error.msg})") from None
        if not isinstance(entry, dict) or not isinstance(entry.get("step"), int):
            raise GraceError(f"training log {path}, line {number} has no whole number 'step'")
        lines.append({key: value for key, value in entry.items() if isinstance(value, int | float)})
    if not lines:
        return None
    return pd.DataFrame(lines).drop_duplicates("step", keep="last").sort_values("step", ignore_index=True)


def loss_columns(curve: pd.DataFrame) -> list[str]:
    """The losses of a training log: `loss` first, then its parts (`loss_memorize`, `loss_retrieve`, ...)."""
    parts = sorted(name for name in curve.columns if name.startswith("loss_") and curve[name].notna().any())
    return ["loss"] * ("loss" in curve.columns) + parts


def read_benchmarks(folder: Path, dataset: str) -> pd.DataFrame | None:
    """Read Snakemake's benchmark files of `dataset` and of the stages that all data sets share; None if there
    are none."""
    rows = []
    for path in sorted(folder.rglob("*.tsv")):
        place = path.relative_to(folder).with_suffix("").parts
        if len(place) > 1 and place[0] != dataset:
            continue
        try:
            table = pd.read_csv(path, sep="\t", na_values=["-", "NA"])
            measured = {name: pd.to_numeric(table[name]) for name in ("s", "max_rss") if name in table}
            cpu = pd.to_numeric(table["cpu_time"]) if "cpu_time" in table else pd.Series([np.nan])
        except (ValueError, OSError) as error:
            raise GraceError(f"benchmark {path} is not a Snakemake benchmark table ({error})") from None
        if set(measured) != {"s", "max_rss"} or table.empty:
            raise GraceError(f"benchmark {path} lacks the column s or max_rss, or has no row; run its stage again")
        # "{dataset}/{scheme}/seed{n}/{stage}" or "{dataset}/{stage}"; the middle part says which system.
        rows.append(
            {
                "stage": place[-1],
                "where": ", ".join(place[1:-1]).replace("seed", "seed "),
                "seconds": float(measured["s"].mean()),
                "cpu_seconds": float(cpu.mean()),
                "memory_mb": float(measured["max_rss"].max()),
            }
        )
    return pd.DataFrame(rows) if rows else None


def _vectors(path: Path, images: int) -> np.ndarray | None:
    if not path.exists():
        return None
    vectors = read_array(path, "image embeddings")
    if len(vectors) != images:
        raise GraceError(f"{path} has {len(vectors)} rows, the data set has {images} images; run encode again")
    return vectors


def _object(path: Path, what: str) -> dict[str, Any]:
    value = read_json(path, what)
    if not isinstance(value, dict):
        raise GraceError(f"{what} {path}: a JSON object is expected")
    return value
