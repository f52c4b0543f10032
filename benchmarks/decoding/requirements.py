"""Requirements on the results of one run, each with the measured value and whether it is met.

Ratios of medians, computed from the rows of the parts; parts that were not run are skipped.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.decoding.timing import median

Rows = list[dict[str, Any]]


def verdicts(parts: dict[str, Rows]) -> list[dict[str, Any]]:
    """[{claim, value, limit, at_least, holds}]: `holds` is value >= limit with `at_least`, else value <= limit."""
    found = [verdict for name, check in CHECKS.items() if name in parts for verdict in check(parts[name])]
    return [
        {
            "claim": claim, "value": value, "limit": limit, "at_least": at_least,
            "holds": value >= limit if at_least else value <= limit,
        }
        for claim, value, limit, at_least in found
    ]  # fmt: skip


def _trie(rows: Rows) -> Iterator[tuple[str, float, float, bool]]:
    table = {(row["shape"], row["identifiers"], row["structure"]): row for row in rows}
    for (shape, number, structure), row in table.items():
        if structure != "level order":
            continue
        at = f"{shape}, {number:,} identifiers"
        peer = table[shape, number, "dictionaries"]
        yield f"{at}: structures that allow the same tokens", _agreeing(rows, shape, number), 1.0, True
        yield f"{at}: build, times faster than nested dictionaries", _ratio(peer, row, "build_s"), 40, True
        yield f"{at}: load, times faster than the pickle", _ratio(peer, row, "load_s"), 1000, True
        if number == 10_000_000:
            yield f"{at}: build, seconds", median(row["build_s"]), 2.0, False
        if number == 1_000_000 and shape != "digits_L8":
            yield f"{at}: bytes per identifier, without the leaf map", row["bytes"] / number, 10.0, False


def _selection(rows: Rows) -> Iterator[tuple[str, float, float, bool]]:
    table = {(row["shape"], row["vocabulary"], row["identifiers"], row["way"]): row for row in rows}
    for (shape, vocabulary, number, way), row in table.items():
        if way != "grace":
            continue
        at = f"{shape}, vocabulary {vocabulary:,}"
        peer = table[shape, vocabulary, number, "Hugging Face over dictionaries"]
        limit = 1 / 10 if vocabulary <= 2048 else 1 / 4
        of = [other for other in rows if other["vocabulary"] == vocabulary]
        yield f"{at}, {number:,} identifiers: methods that select the same", _agreeing(of, shape, number), 1.0, True
        yield (
            f"{at}, {number:,} identifiers: selection step, share of Hugging Face's",
            _ratio(row, peer, "whole_s"), limit, False,
        )  # fmt: skip
        smaller = table.get((shape, vocabulary, 123_000, way))
        if number == 10_000_000 and smaller:
            yield f"{at}: step with 10 M identifiers relative to 123 k", _ratio(row, smaller, "whole_s"), 1.2, False


def _end_to_end(rows: Rows) -> Iterator[tuple[str, float, float, bool]]:
    table = {(row["model"], row["search"]): row for row in rows}
    for (model, search), row in table.items():
        if search != "grace":
            continue
        for peer in [name for of, name in table if of == model and name.startswith("Hugging Face")]:
            limit = 5.0 if "without cache" in peer else 1.8
            times = _ratio(table[model, peer], row, "seconds")
            yield f"{model}: search, times faster than {peer}", times, limit, True
        yield f"{model}: share of queries with the same ten identifiers in the same order", row["same_share"], 1.0, True


def _agreeing(rows: Rows, shape: str, number: int) -> float:
    """The share of the rows of one trie whose answers agree with all the others."""
    same = [row["same"] for row in rows if (row["shape"], row["identifiers"]) == (shape, number)]
    return sum(same) / len(same)


def _ratio(one: dict[str, Any], other: dict[str, Any], key: str) -> float:
    return median(one[key]) / median(other[key])


CHECKS = {"trie": _trie, "selection": _selection, "end_to_end": _end_to_end}
