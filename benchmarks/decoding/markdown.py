"""Print the results of one file as Markdown, for docs/explanation/decoding.md.

python -m benchmarks.decoding.markdown docs/results/decoding_benchmark.json
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from grace.report.decoding import read_benchmark, tables


def markdown(benchmark: dict[str, Any]) -> str:
    """Tables of all parts, as in the report."""
    shown = tables(benchmark)
    machine = dict(shown["machine"])
    out = [
        f"{machine.get('Processor')}, {machine.get('Threads used')} threads, {machine.get('Memory')}; {shown['versions']}; "
        f"{shown['minutes']} minutes.",
        _table(
            ["identifiers", "number", *(f"{what}: dictionaries | marisa-trie | ours" for what in ("build", "bytes", "load"))],
            ([row["shape"], row["number"], *row["build"], *row["bytes"], *row["load"]] for row in shown["trie"]),
        ),
        _table(
            ["identifiers", "number", "vocabulary", *shown["ways"], "share"],
            ([r["shape"], r["number"], r["vocabulary"], *r["times"], r["share"]] for r in shown["selection"]),
        ),
        _table(
            ["parameters", "type", "queries", *shown["searches"], "same answers"],
            (
                [row["parameters"], row["dtype"], row["queries"], *(f"{t} ({x})" if x else t for t, x in row["times"]),
                 row["same"]]
                for row in shown["end_to_end"]
            ),
        ),
        _table(
            ["system", "images", "recall", "effort", "p50", "p95", "per query, of 64", "bytes per image", "constant"],
            (list(row.values()) for row in shown["dense"]),
        ),
        shown["crossover"] or "",
        _table(
            ["H200, roofline: queries", "images", "generating", "flat search"],
            (list(row.values()) for row in shown["roofline"]),
        ),
        _table(
            ["required", "measured", "limit", "holds"],
            ([r["claim"], r["value"], r["limit"], "yes" if r["holds"] else "**no**"] for r in shown["required"]),
        ),
    ]  # fmt: skip
    return "\n\n".join(part for part in out if part) + "\n"


def _table(head: list[str], rows: Iterable[list[str]]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    if not lines:
        return ""
    columns = " | ".join(head)
    return "\n".join([f"| {columns} |", "|---" * (columns.count(" | ") + 1) + "|", *lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    print(markdown(read_benchmark(str(parser.parse_args().file), Path())), end="")


if __name__ == "__main__":
    main()
