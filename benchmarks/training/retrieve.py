"""Our retrieve step and the naive step on the same samples: loss, gradients, samples per second, peak of live bytes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.training.naive import naive_loss
from benchmarks.training.work import Work
from grace.model.batches import collate
from grace.plan.tracker import LiveBytes
from grace.training.objectives import generation_loss

Step = Callable[[np.ndarray], tuple[Tensor, Tensor | int]]


def steps_of(work: Work, chunk: int = 0) -> dict[str, Step]:
    """Both ways to compute the summed loss of some samples, by name."""
    samples = work.pool.samples

    def ours(rows: np.ndarray) -> tuple[Tensor, Tensor]:
        batch = collate(samples, rows, work.embeddings, work.pad_id, "retrieve", 1)
        return generation_loss(work.model, batch, chunk=chunk)

    def naive(rows: np.ndarray) -> tuple[Tensor, int]:
        return naive_loss(work.model, work.tower, [work.pad_image] * len(rows), samples, rows, work.pad_id)

    return {"ours": ours, "naive": naive}


def compare(work: Work, dealt: list[np.ndarray], repeats: int) -> dict[str, Any]:
    """Run both on the samples `dealt`, one array per step: ours in the sampler's order, the naive one in random order."""
    shuffled = np.random.default_rng(0).permutation(np.concatenate(dealt)).reshape(len(dealt), -1)
    orders = {"ours": dealt, "naive": list(shuffled)}
    ways = steps_of(work)
    work.model.train()
    seen = {name: _whole_window(work.model, ways[name], orders[name]) for name in ways}
    times: dict[str, list[float]] = {name: [] for name in ways}
    processor: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, step in ways.items():  # alternating, so that other load on the machine affects both
            started, worked = time.perf_counter(), time.process_time()
            for rows in orders[name]:
                work.model.zero_grad(set_to_none=True)
                loss, terms = step(rows)
                (loss / terms).backward()
            times[name].append((time.perf_counter() - started) / len(dealt))
            processor[name].append((time.process_time() - worked) / len(dealt))
    out: dict[str, Any] = {}
    for name in ways:
        out[name] = {
            "seconds_per_step": float(np.median(times[name])),
            "samples_per_second": work.pool.batch / float(np.median(times[name])),
            "processor_seconds_per_step": float(np.median(processor[name])),
            "operations_per_step": seen[name]["operations"] / len(dealt),
            "peak_live_bytes": seen[name]["peak"],
            "loss": seen[name]["loss"],
            "supervised_tokens": seen[name]["terms"],
            "rounds_seconds": times[name],
        }
    out["speedup"] = out["naive"]["seconds_per_step"] / out["ours"]["seconds_per_step"]
    out["speedup_of_rounds"] = [a / b for a, b in zip(times["naive"], times["ours"], strict=True)]
    for what in ("processor_seconds", "operations"):  # these do not depend on other load
        out[f"{what}_ratio"] = out["naive"][f"{what}_per_step"] / out["ours"][f"{what}_per_step"]
    out["memory_ratio"] = out["naive"]["peak_live_bytes"] / out["ours"]["peak_live_bytes"]
    out["gradients"] = difference(seen["ours"]["gradients"], seen["naive"]["gradients"])
    return out


def _whole_window(model: Any, step: Step, order: list[np.ndarray]) -> dict[str, Any]:
    """Loss and gradients summed over all steps, the peak of live bytes besides the weights, and the operations."""
    model.zero_grad(set_to_none=True)
    loss, terms, peak, operations = 0.0, 0, 0, 0
    for rows in order:
        with LiveBytes() as live:
            own = sum(live_parameter(live, parameter) for parameter in model.parameters())
            part, count = step(rows)
            part.backward()
            loss, terms = loss + part.item(), terms + int(count)
            del part
        peak = max(peak, live.peak - own)
    gradients = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    for rows in order:
        model.zero_grad(set_to_none=True)
        # attention as matrix products, so that they are counted
        with (
            sdpa_kernel(SDPBackend.MATH),
            FlopCounterMode(display=False) as counter,
        ):
            step(rows)[0].backward()
        operations += counter.get_total_flops()
    return {"loss": loss / terms, "terms": terms, "peak": peak, "operations": operations, "gradients": gradients}


def live_parameter(live: LiveBytes, parameter: Tensor) -> int:
    live.add(parameter)
    return parameter.untyped_storage().nbytes()


def difference(ours: dict[str, Tensor], naive: dict[str, Tensor]) -> dict[str, Any]:
    """The largest relative difference of a parameter's gradient: norm of the difference over norm of the naive one."""
    if set(ours) != set(naive):
        raise AssertionError(f"gradients of other parameters: {sorted(set(ours) ^ set(naive))[:3]}")
    floor = 1e-6 * torch.stack([value.norm() for value in naive.values()]).max().item()
    off = {name: ((ours[name] - value).norm() / (value.norm() + floor)).item() for name, value in naive.items()}
    worst = max(off, key=off.__getitem__)
    return {"parameters": len(off), "largest_relative_difference": off[worst], "of": worst}
