"""The measures of text-to-image retrieval, one value per query, computed by ir-measures.

Reads the tables of `grace.retrieval.runs.read_run` and `read_qrels`; used by `python -m grace evaluate` and the report.

Every query has one relevant image, so Recall@K (the field's name) equals Success@K of ir-measures: 1 if the image is
among the first K. MRR@10 is RR@10 of ir-measures averaged: 1/rank of the image, 0 below rank 10. The denominator is the
qrels: a query that the run does not answer scores 0 in every measure. Queries are identified by their ids, so two queries
with the same text stay two queries.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from grace.system.errors import GraceError

MEASURES = ("R@1", "R@5", "R@10", "MRR@10")
DEPTH = 10
"""Ranks per query that the deepest measure looks at."""
IR_MEASURES_NAMES = {"Success@1": "R@1", "Success@5": "R@5", "Success@10": "R@10", "RR@10": "MRR@10"}


def per_query(qrels: pd.DataFrame, run: pd.DataFrame) -> pd.DataFrame:
    """Score every query of the qrels.

    `qrels` has query_id, doc_id, relevance; `run` has query_id, doc_id, rank. Returns float64 columns `MEASURES`,
    fractions, indexed by query_id in the order of the qrels.
    """
    import ir_measures  # takes a second, so it is not imported with this module

    gold = gold_images(qrels)
    # Nested dicts: ir-measures uses them as they are, but iterates over a DataFrame row by row.
    known: dict[str, dict[str, int]] = {query: {doc: 1} for query, doc in gold.items()}
    answers: dict[str, dict[str, float]] = {}
    # The rank, not the score: providers with 32-bit scores must not see ties.
    for query, doc, rank in zip(run.query_id, run.doc_id, run["rank"].tolist(), strict=True):
        answers.setdefault(query, {})[doc] = -float(rank)
    values = pd.DataFrame(0.0, index=gold.index, columns=list(MEASURES))
    place = {query: row for row, query in enumerate(gold.index)}
    column = {name: values.columns.get_loc(mine) for name, mine in IR_MEASURES_NAMES.items()}
    table = values.to_numpy(copy=True)
    measures = [ir_measures.parse_measure(name) for name in IR_MEASURES_NAMES]
    for metric in ir_measures.iter_calc(measures, known, answers):
        table[place[metric.query_id], column[str(metric.measure)]] = metric.value
    return pd.DataFrame(table, index=gold.index, columns=values.columns)


def gold_images(qrels: pd.DataFrame) -> pd.Series:
    """Return the one relevant doc_id of every query, indexed by query_id; `GraceError` if a query has none or
    several."""
    relevant = qrels[qrels.relevance > 0]
    counts = relevant.query_id.value_counts()
    bad = next((query for query in qrels.query_id if counts.get(query, 0) != 1), None)
    if bad is not None:
        raise GraceError(
            f"qrels: query {bad} has {counts.get(bad, 0)} relevant images; exactly one is needed, because Recall@K is "
            "measured as Success@K"
        )
    return pd.Series(relevant.doc_id.to_numpy(), index=pd.Index(relevant.query_id, name="query_id"), name="doc_id")


def gold_ranks(qrels: pd.DataFrame, run: pd.DataFrame) -> pd.Series:
    """Return the rank (int64, from 1) of every query's image, 0 where the run does not have it, indexed like the
    qrels."""
    gold = gold_images(qrels)
    found = run.set_index(["query_id", "doc_id"])["rank"]
    ranks = (
        found.reindex(pd.MultiIndex.from_arrays([gold.index, gold.to_numpy()])).fillna(0).to_numpy().astype(np.int64)
    )
    return pd.Series(ranks, index=gold.index, name="rank")


def check_run(run: pd.DataFrame, qrels: pd.DataFrame, gallery: set[str], where: str) -> None:
    """Raise `GraceError` if `run` answers a query that is not in the qrels or names an image outside the gallery."""
    strange = ~run.query_id.isin(set(qrels.query_id))
    if strange.any():
        raise GraceError(
            f"{where}: query {run.query_id[strange].iloc[0]} is not in the qrels ({strange.sum()} such lines); the run "
            "belongs to another data set or split: make it again with the retrieve or baseline stage"
        )
    strange = ~run.doc_id.isin(gallery)
    if strange.any():
        row = run[strange].iloc[0]
        raise GraceError(
            f"{where}: image {row.doc_id} (query {row.query_id}) is not in the gallery ({strange.sum()} such "
            "lines); the run "
            "belongs to another data set or split: make it again with the retrieve or baseline stage"
        )
