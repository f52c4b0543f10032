"""Run the cases, write one JSON file and print a table; the exit code only says whether they ran, not how well they agree."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from grace.plan.activations import count, fake_learner
from grace.plan.memory import memory
from grace.plan.shapes import Shape
from grace.records.provenance import versions
from grace.system.files import write_json
from grace.training.parameters import count_parameters
from grace.workflow.config import Flamingo, Training

FLAMINGO = {
    "scratch": {"width": 512, "layers": 8, "heads": 8, "max_length": 256},
    "cross_attention_every": 2, "cross_attention_heads": 8, "cross_attention_head_dim": 64,
    "perceiver_depth": 2, "perceiver_latents": 16,
}  # fmt: skip
SMALL = {"memorize": 2, "retrieve": 6, "pseudo": 0, "length": 32, "supervised": 6, "vocabulary": 8000,
         "visual_tokens": 49, "visual_width": 256}  # fmt: skip
LONG = {**SMALL, "memorize": 4, "retrieve": 28, "length": 64}
MPT = {**FLAMINGO, "scratch": {**FLAMINGO["scratch"], "architecture": "mpt", "layers": 12}}
CASES: dict[str, tuple[dict, dict, dict]] = {
    "fp32": (FLAMINGO, {}, LONG),
    "fp32, checkpointed": (FLAMINGO, {"activation_checkpointing": True, "loss_chunk": 32}, LONG),
    "fp32, accumulated": (FLAMINGO, {"gradient_accumulation": 2}, SMALL),
    "fp32, MPT of 12 layers, ZeRO 2": (MPT, {"zero_stage": 2}, SMALL),
    "fp32, ZeRO 3": (FLAMINGO, {"zero_stage": 3}, SMALL),
    "fp32, perceiver and cross-attention trained": (FLAMINGO, {"trainable": ["perceiver", "cross_attention"]}, LONG),
    "bf16, ZeRO 2, checkpointed": (FLAMINGO, {"zero_stage": 2, "precision": "bf16", "activation_checkpointing": True}, SMALL),
    "bf16, ZeRO 3": (FLAMINGO, {"zero_stage": 3, "precision": "bf16"}, SMALL),
}  # fmt: skip


def told(flamingo: dict, keys: dict, shape: dict) -> dict[str, Any]:
    settings, training, sizes = Flamingo(**flamingo), Training(**keys), Shape(**shape)
    with FakeTensorMode():
        parameters = count_parameters(fake_learner(settings, training, sizes, None), 0)
    found = memory(parameters, count(settings, training, sizes), training, training.zero_stage, 1, gpu=False)
    return {"parameters": parameters.in_training, "told": found.peak, "activations": found.activations}


def measured(flamingo: dict, keys: dict, shape: dict) -> dict[str, Any]:
    # Blocks of 64 KiB and more are returned to the system when freed, so that resident memory equals live memory.
    environment = {
        **os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    job = json.dumps({"flamingo": flamingo, "training": keys, "shape": shape})
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.plan.worker", job], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"the worker failed: {done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    print(f"{'case':46} {'parameters':>11} {'planned':>8} {'measured':>8} {'off':>7}   MB")
    for name in options.cases:
        row = {"case": name, **told(*CASES[name]), "measured": measured(*CASES[name])["peak"]}
        row["off"] = row["told"] / row["measured"] - 1
        rows.append(row)
        sizes = f"{row['told'] / 1e6:8.0f} {row['measured'] / 1e6:8.0f} {row['off']:+7.1%}"
        print(f"{name:46} {row['parameters']:11,} {sizes}", flush=True)
        write_json(options.output, {"command": "python -m benchmarks.plan", "versions": versions(), "rows": rows})


if __name__ == "__main__":
    main()
