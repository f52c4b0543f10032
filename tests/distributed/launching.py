"""Starting the jobs of `worker.py` in one or more processes, and reading the losses that they log."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STAGES, WORLDS, SHORT = (0, 2, 3), (1, 2), 5
LORA = ("perceiver", "cross_attention", "lora")


def launch(folder: Path, world: int, jobs: list[dict], name: str = "jobs") -> str:
    """Run jobs, one after the other, in `world` processes; what they said."""
    file = folder / f"{name}{world}.json"
    file.write_text(json.dumps([{"output": str(folder), **job} for job in jobs]))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
    command = command if world > 1 else [sys.executable]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(ROOT / "tests/distributed/worker.py"), str(file)],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=540,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def losses(folder: Path, name: str) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / f"{name}.jsonl").read_text().splitlines()]
