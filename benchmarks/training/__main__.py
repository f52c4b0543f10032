"""Run the comparison (and on a GPU the 3B shapes), write one JSON file, print a table; see the package's docstring."""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks.training import gpu
from benchmarks.training.retrieve import compare
from benchmarks.training.work import make, window
from grace.records.provenance import versions
from grace.report.costs import machine
from grace.system.files import write_json
from grace.workflow.config import load


def show(found: dict[str, Any]) -> None:
    print(f"{'step':8} {'samples/s':>10} {'s/step':>8} {'CPU s':>8} {'GFLOP':>8} {'peak MB':>8} {'loss':>10}")
    for name in ("naive", "ours"):
        row = found[name]
        times = (
            f"{row['samples_per_second']:10.1f} {row['seconds_per_step']:8.3f} {row['processor_seconds_per_step']:8.3f}"
        )
        work = f"{row['operations_per_step'] / 1e9:8.1f} {row['peak_live_bytes'] / 1e6:8.0f}"
        print(f"{name:8} {times} {work} {row['loss']:10.6f}")
    off = found["gradients"]
    print(
        f"{found['speedup']:.2f} times as fast in wall time, {found['processor_seconds_ratio']:.2f} in CPU time; "
        f"{found['operations_ratio']:.2f} times fewer operations, {found['memory_ratio']:.2f} times less memory; gradients of "
        f"{off['parameters']} parameters differ by {off['largest_relative_difference']:.1e} at most"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--configfile", type=Path, default=Path("config.yaml"))
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peak-tflops", type=float, default=989.0, help="bf16 peak of the GPU; an H100 SXM has 989")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = make(load(options.configfile), Path(folder))
        retrieve = compare(work, window(work, 8), options.repeats)
    result: dict[str, Any] = {
        "command": f"python -m benchmarks.training --configfile {options.configfile}",
        "machine": {**dict(machine()), "threads": torch.get_num_threads(), "load": os.getloadavg()[0]},
        "versions": versions(),
        "retrieve": retrieve,
    }
    write_json(options.output, result)
    show(retrieve)
    if torch.cuda.is_available():
        result["gpu"] = gpu.run(options.peak_tflops)
        write_json(options.output, result)
        gpu.show(result["gpu"])


if __name__ == "__main__":
    main()
