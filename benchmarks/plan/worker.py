"""Measure one training: a Flamingo of given shapes in the real engine, in a separate process.

    python -m benchmarks.plan.worker '{"flamingo": {...}, "training": {...}, "shape": {...}}'

Prints one line of JSON: the peak resident memory during three steps, above that before the model was built. glibc returns
every freed block (MALLOC_MMAP_THRESHOLD_, set by the caller), so that resident memory equals live memory.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import torch

from grace.model.flamingo import build
from grace.plan.shapes import Shape, Words, batches
from grace.training.deepspeed_engine import make_engine
from grace.training.learner import Learner, choose_trainable
from grace.training.model_in_training import ModelInTraining
from grace.workflow.config import Flamingo, Training


def status(key: str) -> int:
    """A field of /proc/self/status, in bytes."""
    return int(re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text()).group(1)) * 1024


def main(job: dict) -> None:
    flamingo, training, shape = Flamingo(**job["flamingo"]), Training(**job["training"]), Shape(**job["shape"])
    warm(training)
    Path("/proc/self/clear_refs").write_text("5")  # reset the peak
    before = status("VmRSS")
    model = build(flamingo, Words(shape.vocabulary), shape.visual_width)
    choose_trainable(model, training)
    learner = Learner(model, "generate", training.loss_chunk)
    dealt = batches(shape)
    engine = make_engine(learner, training, shape.samples)
    engine.train()
    made = status("VmHWM") - before
    Path("/proc/self/clear_refs").write_text("5")
    with ModelInTraining(model, training).recomputed():
        for _ in range(3 * training.gradient_accumulation):
            loss, _ = engine(dealt)
            engine.backward(loss)
            engine.step()
            del loss
    print(json.dumps({"peak": status("VmHWM") - before, "making": made, "kept": status("VmRSS") - before}))


def warm(training: Training) -> None:
    """Trigger everything that a first step loads and compiles, with a tiny model."""
    scratch = {"width": 32, "layers": 2, "heads": 2}
    model = build(Flamingo(scratch=scratch), Words(50), 32)
    learner = Learner(model, "generate", training.loss_chunk)
    choose_trainable(model, training)
    shape = Shape(
        memorize=1, retrieve=2, pseudo=0, length=8, supervised=3, vocabulary=50, visual_tokens=4, visual_width=32
    )
    engine = make_engine(learner, training, 3)
    loss, _ = engine(batches(shape))
    engine.backward(loss)
    engine.step()
    engine.destroy()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(json.loads(sys.argv[1]))
