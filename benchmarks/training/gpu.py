"""On a GPU: training steps of the 3B shapes with random weights, by ZeRO stage: time, peak memory, utilisation.

Model FLOPs utilisation is model operations per second (grace.plan.flops: three times the forward pass, without recomputation)
divided by the stated peak of the GPU. The peak memory is compared with the prediction of `grace plan`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from grace.plan.activations import count, fake_learner
from grace.plan.flops import forward_flops, step_flops
from grace.plan.known import language_model_config, words
from grace.plan.memory import memory
from grace.plan.shapes import Shape, Words, batches
from grace.training.parameters import count_parameters
from grace.workflow.config import Training, load

CONFIG = Path("config/flickr30k.yaml")
STAGES = (1, 2, 3)  # bf16 without ZeRO runs as stage 1


def shape_of(training: Training, vocabulary: int) -> Shape:
    """A micro-batch of the configuration: CLIP ViT-L/14's 256 tokens of width 1,024, sequences of 32."""
    return Shape(
        memorize=training.memorize_batch, retrieve=training.retrieve_batch, pseudo=0, length=32, supervised=6,
        vocabulary=vocabulary, visual_tokens=256, visual_width=1024,
    )  # fmt: skip


def utilisation(forward: dict[str, int], seconds: float, peak_tflops: float) -> float:
    """Model FLOPs utilisation of a step of `seconds`."""
    return step_flops(forward) / seconds / (peak_tflops * 1e12)


def run(peak_tflops: float) -> dict[str, Any]:
    """Run every stage in a separate process, so that the peak memory is that stage's alone."""
    rows = []
    for stage in STAGES:
        command = [sys.executable, "-m", "benchmarks.training.gpu", str(stage), str(peak_tflops)]
        done = subprocess.run(command, capture_output=True, text=True)
        last = done.stdout.strip().splitlines()[-1:] if done.returncode == 0 else []
        said = json.loads(last[0]) if last else {"error": done.stderr.strip().splitlines()[-1:]}
        rows.append({"zero_stage": stage, **said})
    return {"peak_tflops": peak_tflops, "device": torch.cuda.get_device_name(), "rows": rows}


def one_stage(stage: int, peak_tflops: float, steps: int = 8, warm: int = 3) -> dict[str, Any]:
    from grace.model.batches import share_images
    from grace.model.flamingo import build
    from grace.training.deepspeed_engine import make_engine
    from grace.training.learner import Learner, choose_trainable
    from grace.training.model_in_training import ModelInTraining

    config = load(CONFIG)
    training = Training(**{**config.train.for_scheme("structured").model_dump(), "zero_stage": stage})
    vocabulary, model_config = words(config.flamingo), language_model_config(config.flamingo)
    shape = shape_of(training, vocabulary)
    with FakeTensorMode():
        learner = fake_learner(config.flamingo, training, shape, model_config)
        forward = forward_flops(learner.flamingo, shape, training.share_images)
        parameters = count_parameters(learner, 0)
    told = memory(parameters, count(config.flamingo, training, shape, model_config), training, stage, 1)
    with torch.device("cuda"):
        model = build(config.flamingo, Words(vocabulary), 1024, pretrained=False, language_model_config=model_config)
    model.bfloat16()
    choose_trainable(model, training)
    engine = make_engine(Learner(model, "generate", training.loss_chunk), training, shape.samples)
    engine.train()
    with torch.device("cuda"):
        dealt = batches(shape)
    dealt = share_images(dealt) if training.share_images else dealt
    torch.cuda.reset_peak_memory_stats()
    times = []
    with ModelInTraining(model, training).recomputed():
        for _ in range(warm + steps):
            torch.cuda.synchronize()
            started = time.perf_counter()
            loss, _ = engine(dealt)
            engine.backward(loss)
            engine.step()
            torch.cuda.synchronize()
            times.append(time.perf_counter() - started)
    seconds = sorted(times[warm:])[steps // 2]
    return {
        "seconds_per_step": seconds,
        "samples_per_second": shape.samples / seconds,
        "utilisation": utilisation(forward, seconds, peak_tflops),
        "peak_bytes": torch.cuda.max_memory_allocated(),
        "told_bytes": told.peak,
    }


def show(found: dict[str, Any]) -> None:
    print(f"3B shapes, random weights, {found['device']}, peak {found['peak_tflops']:g} TFLOP/s")
    for row in found["rows"]:
        if "error" in row:
            print(f"ZeRO {row['zero_stage']}: {row['error']}")
            continue
        sizes = f"{row['peak_bytes'] / 2**30:.1f} GiB (predicted {row['told_bytes'] / 2**30:.1f})"
        print(
            f"ZeRO {row['zero_stage']}: {row['samples_per_second']:.1f} samples/s, MFU {row['utilisation']:.1%}, {sizes}"
        )


if __name__ == "__main__":
    print(json.dumps(one_stage(int(sys.argv[1]), float(sys.argv[2]))))
