"""Atomic search for one query, compared with the matrix product that it cannot avoid, for large numbers of classes.

Uses random classes and queries. The two are timed alternately, so that the machine's load affects both equally; the ratio is
that of the medians.

    python -m benchmarks.atomic_search --output results/atomic_search.json
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import torch

from grace.model.atomic_head import AtomicHead
from grace.report.costs import machine
from grace.retrieval.atomic import ClassRanking
from grace.system.files import write_json


@torch.inference_mode()
def measure(classes: int, width: int, depth: int, repeats: int) -> dict[str, float | int]:
    """Median milliseconds for ranking one query, and for its product with the class matrix alone."""
    torch.manual_seed(0)
    head = AtomicHead(256, torch.randn(classes, width))
    began = time.perf_counter()
    ranking = ClassRanking(head, torch.arange(classes))
    opened = time.perf_counter() - began
    times: dict[str, list[float]] = {"search": [], "product": []}
    for _ in range(repeats):
        hidden = torch.randn(1, 256)
        began = time.perf_counter()
        ranking.best(hidden, depth)
        times["search"].append(time.perf_counter() - began)
        query = head.queries(hidden)
        began = time.perf_counter()
        query @ ranking.unit_KD.T
        times["product"].append(time.perf_counter() - began)
    search, product = (1000 * statistics.median(times[name]) for name in ("search", "product"))
    return {
        "classes": classes, "width": width, "depth": depth, "open_ms": round(1000 * opened, 1),
        "search_ms": round(search, 2), "product_ms": round(product, 2), "ratio": round(search / product, 2),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument("--width", type=int, nargs="*", default=[128, 512], help="widths of the class matrix")
    parser.add_argument("--depth", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    rows = [measure(n, width, given.depth, given.repeats) for width in given.width for n in given.classes]
    print(f"{'classes':>10} {'width':>6} {'search ms':>10} {'product ms':>11} {'ratio':>6}")
    for row in rows:
        print(
            f"{row['classes']:10} {row['width']:6} {row['search_ms']:10.2f} {row['product_ms']:11.2f} {row['ratio']:6.2f}"
        )
    if given.output:
        told = {"command": " ".join(sys.argv), "threads": torch.get_num_threads(), "machine": dict(machine())}
        write_json(given.output, {**told, "rows": rows})


if __name__ == "__main__":
    main()
