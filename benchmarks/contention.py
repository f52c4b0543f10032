"""Training speed next to other busy processes, for several ways in which OpenMP's threads wait for each other.

Reads the results folder of a finished run of the default configuration. Trains its atomic model again for a few steps in a
temporary folder, alone and next to processes that each keep a core busy, alternating between the settings, and prints (and
with --output writes) samples per second and their share of the first setting's speed alone. Keep the machine otherwise idle.

    python -m benchmarks.contention --results results --output results/contention.json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from grace.report.costs import machine
from grace.system.files import write_json
from grace.workflow.config import load

ROOT = Path(__file__).resolve().parents[1]
UNSET = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS", "GRACE_THREADS")


def setting(text: str) -> tuple[str, dict[str, str]]:
    """`package` (the choice of `python -m grace`), or environment variables as NAME=VALUE,NAME=VALUE."""
    if text == "package":
        return text, {}
    return text, {"GRACE_THREADS": "fixed", **dict(part.split("=", 1) for part in text.split(","))}


@contextmanager
def busy(processes: int):
    """Keep this many cores busy with pure Python loops."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


def train(results: Path, steps: int, variables: dict[str, str]) -> float:
    """Samples per second over `steps` steps of the atomic training, without start-up."""
    config = load(ROOT / "config.yaml")
    data = results / config.dataset.name
    run = data / "atomic" / "seed0"
    training = {**config.train.for_scheme("atomic").model_dump(mode="json"), "steps": steps}
    settings = {
        "flamingo": config.flamingo.model_dump(mode="json"), "training": training,
        "atomic_head": config.train.atomic_head.model_dump(mode="json"),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "grace", "train", "--scheme", "atomic", "--seed", "0", "--dataset", data / "dataset",
            "--tokenizer", data / "tokenizer", "--embeddings", data / "embeddings", "--pseudo-queries",
            data / "pseudo_queries", "--identifiers", run / "identifiers", "--start-from", data / "captioner",
            "--output", f"{folder}/model", "--state", f"{folder}/state", "--settings", json.dumps(settings),
        ]  # fmt: skip
        environment = {name: value for name, value in os.environ.items() if name not in UNSET}
        subprocess.run(list(map(str, command)), cwd=ROOT, env=environment | variables, check=True, capture_output=True)
        lines = Path(folder, "model", "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return json.loads(lines[-1])["samples_per_second"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, help="results folder of a run of config.yaml")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--busy", type=int, nargs="*", default=[0, 1, 2], help="numbers of busy processes beside it")
    parser.add_argument(
        "--settings", type=setting, nargs="*",
        default=list(map(setting, ("GOMP_SPINCOUNT=300000", "OMP_WAIT_POLICY=PASSIVE", "package"))),
        help="environment variables, NAME=VALUE,..., or 'package'; GOMP_SPINCOUNT=300000 is libgomp's own default",
    )  # fmt: skip
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    found: dict[tuple[str, int], list[float]] = {}
    for _ in range(given.repeats):
        for processes in given.busy:
            for name, variables in given.settings:
                with busy(processes):
                    found.setdefault((name, processes), []).append(train(given.results, given.steps, variables))
                print(f"{name}, {processes} busy: {found[name, processes][-1]:.0f} samples/s", flush=True)
    median = {key: statistics.median(values) for key, values in found.items()}
    base = median[given.settings[0][0], min(given.busy)]
    rows: list[dict[str, Any]] = [
        {
            "setting": name, "busy_processes": processes, "samples_per_second": median[name, processes],
            "least": min(values), "most": max(values), "share_of_first": median[name, processes] / base,
        }
        for (name, processes), values in found.items()
    ]  # fmt: skip
    print(f"{'setting':32} {'busy':>4} {'samples/s':>10} {'least':>7} {'most':>7} {'share':>6}")
    for row in rows:
        print(
            f"{row['setting']:32} {row['busy_processes']:4} {row['samples_per_second']:10.1f} {row['least']:7.1f} "
            f"{row['most']:7.1f} {row['share_of_first']:6.2f}"
        )
    if given.output:
        write_json(given.output, {"command": " ".join(sys.argv), "machine": dict(machine()), "rows": rows})


if __name__ == "__main__":
    main()
