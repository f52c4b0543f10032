"""Run the parts and write one JSON file: machine, versions, sizes, rows of every part, and whether requirements are met.

    python -m benchmarks.decoding --output results/decoding_benchmark.json [--parts trie selection end_to_end dense]
                                  [--sizes full|toy]

With `full` everything takes about 30 minutes on two cores and 6 GB; nothing else should run at the same time. Other parts
already in the file are kept if they have the same sizes and were made on the same machine with the same versions. The exit
code only says whether the parts ran, not how fast they were.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from benchmarks.decoding import dense, end_to_end, roofline, selection, tries
from benchmarks.decoding.requirements import verdicts
from benchmarks.decoding.sizes import SIZES
from grace.records.provenance import versions
from grace.report.costs import machine
from grace.report.decoding import FORMAT
from grace.system.files import read_json, write_json

PARTS = {"trie": tries.run, "selection": selection.run, "end_to_end": end_to_end.run, "dense": dense.run}


def run(output: Path, parts: list[str], sizes: str) -> dict[str, Any]:
    """Run `parts`, write `output` and return its content."""
    old = read_json(output, "benchmark") if output.exists() else {}
    here: dict[str, Any] = {
        "format": FORMAT, "machine": dict(machine()) | {"Threads used": str(torch.get_num_threads())},
        "versions": versions() | {"marisa-trie": version("marisa-trie")}, "sizes": SIZES[sizes],
    }  # fmt: skip
    kept = all(old.get(key) == value for key, value in here.items())
    result = {**here, "parts": old["parts"] if kept else {}, "seconds": old["seconds"] if kept else {}}
    for part in parts:
        print(f"{part}:", flush=True)
        start = time.perf_counter()
        result["parts"][part] = PARTS[part](SIZES[sizes][part])
        result["seconds"][part] = round(time.perf_counter() - start, 1)
        result["required"] = verdicts(result["parts"])
        if "dense" in result["parts"]:
            result["crossover"] = dense.crossovers(result["parts"]["dense"])
            images = [*SIZES[sizes]["dense"]["images"], 10_000_000, 100_000_000]
            result["roofline"] = {**roofline.constants(), "rows": roofline.rows(images, [1, 64])}
        write_json(output, result)  # after every part, so that an interrupted run keeps what it has
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("results/decoding_benchmark.json"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--sizes", choices=SIZES, default="full")
    arguments = parser.parse_args()
    result = run(arguments.output, arguments.parts, arguments.sizes)
    print("\nrequired:")
    for verdict in result["required"]:
        sign = ">=" if verdict["at_least"] else "<="
        told = "holds" if verdict["holds"] else "DOES NOT HOLD"
        print(f"  {told:<14} {verdict['claim']}: {verdict['value']:.4g} ({sign} {verdict['limit']:g})")
    if "crossover" in result:
        print(f"\n{result['crossover']['said']}")
    seconds = sum(result["seconds"].values())
    print(f"\n{arguments.output}: {seconds / 60:.1f} minutes on {os.cpu_count()} cores")
    print(json.dumps(result["seconds"]))


if __name__ == "__main__":
    main()
