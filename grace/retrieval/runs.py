"""TREC runs and qrels: the only files between retrieval and evaluation.

Reads and writes `run.trec` (`query_id Q0 doc_id rank score tag`) and reads `qrels.trec` (`query_id 0 doc_id
relevance`); query_id = caption id, doc_id = image id. Written by `python -m grace retrieve` and `baseline`, read
by `python -m grace evaluate`.

Ties are broken here and nowhere else: by score (descending), then by doc_id (ascending). trec_eval keeps scores as
32-bit floats and orders equal ones by its own rule, so the scores written are strictly decreasing 32-bit floats: a score
that is not below its predecessor is lowered to the next representable 32-bit float below it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from grace.system.errors import GraceError
from grace.system.files import need, replacing

RUN_FORM = "query_id Q0 doc_id rank score tag"
QRELS_FORM = "query_id 0 doc_id relevance"


def write_run(path: Path | str, rows: Mapping[str, Sequence[tuple[str, float]]], tag: str) -> None:
    """Write a TREC run: `rows` maps a query id to its (doc_id, score) pairs in any order.

    Ranks start at 1, ordered by score (descending), then doc_id (ascending). A query without pairs has no lines and counts
    as a miss. Raises `GraceError` for an id or a tag with white space, a repeated doc_id in one query, and a score that is
    not a finite 32-bit float.
    """
    ids = list(rows)
    _check_words(ids, "query id", path)
    _check_words([tag], "tag", path)
    sizes = np.fromiter((len(pairs) for pairs in rows.values()), dtype=np.int64, count=len(ids))
    flat = [pair for pairs in rows.values() for pair in pairs]
    docs = np.array([doc for doc, _ in flat], dtype=object)
    _check_words(set(docs), "document id", path)
    scores = np.array([score for _, score in flat], dtype=np.float64)
    queries = np.repeat(np.arange(len(ids)), sizes)
    with np.errstate(over="ignore"):
        finite = np.isfinite(scores.astype(np.float32))
    if not finite.all():
        bad = int(finite.argmin())
        raise GraceError(
            f"run {path}: query {ids[queries[bad]]}, document {docs[bad]}: score {scores[bad]} is not a finite 32-bit "
            "number; a training that diverged produces such scores"
        )
    # Factorised doc ids sort as integers: the same order as strings, but faster.
    doc_codes = np.unique(docs.astype(str), return_inverse=True)[1] if len(docs) else np.zeros(0, dtype=np.int64)
    pairs = queries * (doc_codes.max(initial=0) + 1) + doc_codes
    if len(np.unique(pairs)) < len(pairs):
        first = pd.Series(pairs).duplicated().to_numpy().argmax()
        raise GraceError(f"run {path}: query {ids[queries[first]]} has document {docs[first]} twice")
    order = np.lexsort((doc_codes, -scores, queries))
    ranks = np.arange(len(flat)) - np.repeat(np.cumsum(sizes) - sizes, sizes) + 1
    falling = _strictly_falling(scores[order].astype(np.float32), ranks)
    # The repr of a 32-bit float as float() is exact, also for readers that use 64 bits.
    lines = [
        f"{ids[query]} Q0 {doc} {rank} {score!r} {tag}\n"
        for query, doc, rank, score in zip(queries, docs[order], ranks.tolist(), falling.tolist(), strict=True)
    ]
    with replacing(path) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")


def read_run(path: Path | str) -> pd.DataFrame:
    """Read a TREC run: columns query_id (str), doc_id (str), rank (int64, from 1), score (float64), tag (str), sorted by query
    (in the file's order) and rank.

    Raises `GraceError`, with the line number, for a malformed line, a repeated document, and a query whose ranks are
    not 1, 2, 3 ... or whose scores do not decrease strictly with the rank (the order would then depend on the reader).
    """
    fields, numbers = _read_fields(path, "run", 6, RUN_FORM)
    table = pd.DataFrame(
        {
            "query_id": [row[0] for row in fields],
            "doc_id": [row[2] for row in fields],
            "rank": _column([row[3] for row in fields], np.int64, numbers, f"run {path}", "rank"),
            "score": _column([row[4] for row in fields], np.float64, numbers, f"run {path}", "score"),
            "tag": [row[5] for row in fields],
            "line": numbers,
        }
    )
    bad = table[~np.isfinite(table.score)]
    if len(bad):
        raise GraceError(f"run {path}, line {bad.line.iloc[0]}: score {bad.score.iloc[0]} is not a finite number")
    bad = table[table.duplicated(["query_id", "doc_id"])]
    if len(bad):
        row = bad.iloc[0]
        raise GraceError(f"run {path}, line {row.line}: query {row.query_id} has document {row.doc_id} twice")
    codes = pd.factorize(table.query_id)[0]
    table = table.iloc[np.lexsort((table["rank"].to_numpy(), codes))].reset_index(drop=True)
    codes = np.sort(codes)
    same = np.r_[False, codes[1:] == codes[:-1]]
    expected = _places(same)
    bad = table[table["rank"].to_numpy() != expected]
    if len(bad):
        row = bad.iloc[0]
        raise GraceError(
            f"run {path}, line {row.line}: rank {row['rank']} of query {row.query_id} where "
            f"{expected[bad.index[0]]} is "
            "expected; ranks are 1, 2, 3 ... in every query"
        )
    score = table.score.to_numpy()
    bad = table[same & (score >= np.r_[np.inf, score[:-1]])]
    if len(bad):
        row = bad.iloc[0]
        raise GraceError(
            f"run {path}, line {row.line}: the score of rank {row['rank']} of query {row.query_id} is not below "
            "that of "
            "the rank before it; break ties before writing a run (grace.retrieval.runs.write_run does)"
        )
    return table[["query_id", "doc_id", "rank", "score", "tag"]]


def read_qrels(path: Path | str) -> pd.DataFrame:
    """Read qrels: columns query_id (str), doc_id (str), relevance (int64), in the file's order.

    Raises `GraceError`, with the line number, for a malformed line and a repeated pair; also for an empty file.
    """
    fields, numbers = _read_fields(path, "qrels", 4, QRELS_FORM)
    table = pd.DataFrame(
        {
            "query_id": [row[0] for row in fields],
            "doc_id": [row[2] for row in fields],
            "relevance": _column([row[3] for row in fields], np.int64, numbers, f"qrels {path}", "relevance"),
        }
    )
    if table.empty:
        raise GraceError(f"qrels {path} is empty: there is no query to evaluate")
    repeated = table.duplicated(["query_id", "doc_id"]).to_numpy()
    if repeated.any():
        row = table.iloc[repeated.argmax()]
        raise GraceError(
            f"qrels {path}, line {numbers[repeated.argmax()]}: query {row.query_id} and document {row.doc_id} "
            "are listed twice"
        )
    return table


def _strictly_falling(scores: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """Lower float32 `scores` [N] (not increasing within a query) as little as makes them strictly decreasing."""
    scores = scores.copy()
    for rank in range(2, int(ranks.max(initial=0)) + 1):
        here = np.flatnonzero(ranks == rank)
        scores[here] = np.minimum(scores[here], np.nextafter(scores[here - 1], np.float32(-np.inf)))
    return scores


def _places(same: np.ndarray) -> np.ndarray:
    """Number the rows from 1, starting again wherever `same` [N] is false."""
    index = np.arange(len(same))
    return index - np.maximum.accumulate(np.where(same, 0, index)) + 1


def _check_words(words: object, what: str, path: Path | str) -> None:
    for word in words:  # type: ignore[attr-defined]
        if not isinstance(word, str) or word.split() != [word]:
            raise GraceError(
                f"run {path}: {what} {word!r} is empty or contains white space, which a TREC file cannot store"
            )


def _read_fields(path: Path | str, what: str, width: int, form: str) -> tuple[list[list[str]], list[int]]:
    """Split all lines that are not blank; return the fields and the line numbers (from 1)."""
    try:
        text = need(path, what).read_text(encoding="utf-8-sig")  # some editors put a byte-order mark first
    except (UnicodeDecodeError, OSError) as error:
        raise GraceError(f"{what} {path} is not a readable text file ({error})") from None
    fields, numbers = [], []
    for number, line in enumerate(text.split("\n"), start=1):
        row = line.split()
        if not row:
            continue
        if len(row) != width:
            raise GraceError(f"{what} {path}, line {number}: {len(row)} fields where {width} are expected ({form})")
        fields.append(row)
        numbers.append(number)
    return fields, numbers


def _column(words: list[str], kind: type, numbers: list[int], where: str, what: str) -> np.ndarray:
    try:
        return np.array([int(word) if kind is np.int64 else float(word) for word in words], dtype=kind)
    except (ValueError, OverflowError):
        for word, number in zip(words, numbers, strict=True):
            try:
                np.array(int(word) if kind is np.int64 else float(word), dtype=kind)
            except (ValueError, OverflowError):
                raise GraceError(f"{where}, line {number}: {what} {word!r} is not a number") from None
        raise
