"""Bytes of one training process under every ZeRO stage: weights, gradients, optimizer, activations, and the peaks of a step.

Follows what DeepSpeed 0.19 keeps in memory, according to its source and, in part, measured peaks
(`python -m benchmarks.plan`). docs/explanation/training.md has the formulas, and says which of them were measured.
"""

from __future__ import annotations

from dataclasses import dataclass

from grace.plan.activations import Counted
from grace.training.parameters import Parameters
from grace.workflow.config import Training

# DeepSpeed's defaults, elements: https://www.deepspeed.ai/docs/config-json/#zero-optimizations-for-fp16-training
BUCKET = 500_000_000  # reduce_bucket_size: gradients are collected in a buffer of this size before they are sent
LIVE = 1_000_000_000  # stage3_max_live_parameters and stage3_max_reuse_distance: gathered weights that stay
SUB_GROUP = 1_000_000_000  # sub_group_size: number of parameters that ZeRO 3 updates at a time
MASTER, ADAM = 4, 8  # bytes per trained parameter: fp32 weights, and the two fp32 moments


@dataclass(frozen=True)
class Memory:
    """Bytes of one process on its device, and on the host if the optimizer is offloaded."""

    zero_stage: int
    offload: bool
    weights: int
    optimizer: int  # fp32 master weights and moments
    gradients: int  # kept until the step
    activations: int  # and everything else in the forward and backward pass
    backward: int  # peak of the forward and backward pass
    step: int  # peak of the optimizer step
    host: int

    @property
    def peak(self) -> int:
        return max(self.backward, self.step)


def memory(
    parameters: Parameters, counted: Counted, training: Training, zero_stage: int, processes: int,
    offload: bool = False, gpu: bool = True,
) -> Memory:  # fmt: skip
    """The memory of one process. `counted`: its micro-batch, in the precision of `training`.

    With `gpu` False, as on a CPU: only the written part of an allocated buffer counts, and AdamW updates the parameters one
    by one.
    """
    if offload and zero_stage == 0:
        raise ValueError("the optimizer can be offloaded under ZeRO 1 to 3 only")
    total, trained = parameters.in_training, parameters.trained
    width = 2 if training.precision == "bf16" else 4
    bucket = width * (BUCKET if gpu else min(BUCKET, trained))
    # Besides the gradient, AdamW allocates the root of the second moment (on a CPU also the quotient) of what it updates.
    temporaries = 1 if gpu else 2
    accumulates = training.gradient_accumulation > 1
    if zero_stage == 0:
        if width == 2:
            raise ValueError("bf16 without ZeRO runs as ZeRO 1")
        weights, optimizer, gradients = 4 * total, ADAM * trained, 4 * trained
        at_once = max(parameters.groups) if gpu else parameters.largest
        kept = counted.peak(0) + gradients if accumulates else counted.peak(1)
        states = weights + optimizer
        # Gradients are collected, one bucket at a time, to average them over the processes, even if there is only one.
        together = gradients + 4 * min(BUCKET, trained)
        step = states + max(together, gradients + 4 * at_once * temporaries)
        return Memory(0, False, weights, optimizer, gradients, counted.peak(0), states + kept, step, 0)
    shard = trained / processes
    on_device = 0 if offload else 1
    states = (MASTER + ADAM) * shard
    # fp32 gradients, and weights being copied back
    host = 0 if on_device else round(states + MASTER * shard + width * shard)
    if zero_stage < 3:
        weights = width * total
        share = 1.0 if zero_stage == 1 else 1 / processes
        gradients = width * trained * share * (on_device or zero_stage == 1)
        kept = counted.peak(0) + gradients if accumulates else counted.peak(share if on_device else 0)
        # On a CPU the buffer replaces the gradients one by one; on a GPU it comes on top.
        backward = weights + states * on_device + kept + (bucket if gpu else 0)
        # A group is flattened to fp32 and updated as one tensor.
        flat = MASTER * max(parameters.groups) / processes
        step = weights + states * on_device + max(gradients + flat * on_device, (1 + temporaries) * flat * on_device)
    else:
        weights = width * total / processes
        gradients = width * shard * on_device
        gathered = width * min(total, LIVE)
        held = weights + states * on_device + gradients + bucket
        backward = held + gathered + counted.peak(0)
        sub_group = MASTER * min(SUB_GROUP, max(parameters.groups)) / processes
        step = held + (1 + temporaries) * sub_group * on_device
    return Memory(
        zero_stage, offload, round(weights), round(states * on_device), round(gradients), counted.peak(0), round(backward),
        round(step), host,
    )  # fmt: skip
