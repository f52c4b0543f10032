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


@dataclass(frozen=True)
class _Process:
    """One training process: what it trains, and the sizes that depend on its precision and device."""

    parameters: Parameters
    counted: Counted
    training: Training
    processes: int
    offload: bool
    gpu: bool

    @property
    def width(self) -> int:
        """Bytes of a weight or gradient."""
        return 2 if self.training.precision == "bf16" else 4

    @property
    def shard(self) -> float:
        """Trained parameters whose optimizer states are in this process."""
        return self.parameters.trained / self.processes

    @property
    def states(self) -> float:
        """Bytes of the optimizer states, on the device or the host."""
        return (MASTER + ADAM) * self.shard

    @property
    def on_device(self) -> float:
        """Bytes of the optimizer states on the device."""
        return 0 if self.offload else self.states

    @property
    def on_host(self) -> float:
        """Bytes on the host: the states, fp32 gradients, and weights being copied back."""
        return self.states + MASTER * self.shard + self.width * self.shard if self.offload else 0

    @property
    def bucket(self) -> int:
        """Bytes of the buffer in which gradients are collected."""
        return self.width * (BUCKET if self.gpu else min(BUCKET, self.parameters.trained))

    @property
    def copies(self) -> int:
        """Copies that AdamW allocates of what it updates: the root of the second moment, on a CPU also the quotient."""
        return 1 if self.gpu else 2

    def backward_peak(self, gradients: float, ready: float) -> float:
        """Peak of activations and gradients. `gradients`: bytes kept until the step; `ready`: the share of the ready gradients
        that stays on the device if a step has a single micro-batch."""
        if self.training.gradient_accumulation > 1:  # all gradients of the previous micro-batches are there
            return self.counted.peak(0) + gradients
        return self.counted.peak(ready)

    def result(self, zero_stage: int, *, weights: float, gradients: float, backward: float, step: float) -> Memory:
        return Memory(
            zero_stage, self.offload, round(weights), round(self.on_device), round(gradients), self.counted.peak(0),
            round(backward), round(step), round(self.on_host),
        )  # fmt: skip


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
    if training.precision == "bf16" and zero_stage == 0:
        raise ValueError("bf16 without ZeRO runs as ZeRO 1")
    process = _Process(parameters, counted, training, processes, offload, gpu)
    if zero_stage == 0:
        return _without_zero(process)
    return _zero_3(process) if zero_stage == 3 else _zero_1_or_2(process, zero_stage)


def _without_zero(process: _Process) -> Memory:
    """Plain AdamW in fp32: the weights are their own master copy, so the states are two moments per parameter."""
    parameters, trained = process.parameters, process.parameters.trained
    weights, optimizer, gradients = 4 * parameters.in_training, ADAM * trained, 4 * trained
    at_once = max(parameters.groups) if process.gpu else parameters.largest
    # Gradients are collected, one bucket at a time, to average them over the processes, even if there is only one.
    together = gradients + 4 * min(BUCKET, trained)
    backward = weights + optimizer + process.backward_peak(gradients, ready=1)
    step = weights + optimizer + max(together, gradients + 4 * at_once * process.copies)
    return Memory(0, False, weights, optimizer, gradients, process.counted.peak(0), backward, step, host=0)


def _zero_1_or_2(process: _Process, zero_stage: int) -> Memory:
    """Optimizer states are sharded; under ZeRO 2 gradients too, and with offloading they leave the device at once."""
    weights = process.width * process.parameters.in_training
    unsharded = process.width * process.parameters.trained
    share = 1.0 if zero_stage == 1 else 1 / process.processes
    gradients = 0 if process.offload and zero_stage == 2 else unsharded * share
    ready = 0 if process.offload else share
    # On a CPU the buffer replaces the gradients one by one; on a GPU it comes on top.
    buffer = process.bucket if process.gpu else 0
    held = weights + process.on_device
    backward = held + process.backward_peak(gradients, ready) + buffer
    if process.offload:
        step = held + gradients
    else:  # a group is flattened to fp32 and updated as one tensor
        flat = MASTER * max(process.parameters.groups) / process.processes
        step = held + max(gradients + flat, (1 + process.copies) * flat)
    return process.result(zero_stage, weights=weights, gradients=gradients, backward=backward, step=step)


def _zero_3(process: _Process) -> Memory:
    """Weights are sharded as well, and gathered for the layers in use; parameters are updated one sub-group at a time."""
    parameters = process.parameters
    weights = process.width * parameters.in_training / process.processes
    gradients = 0 if process.offload else process.width * process.shard
    gathered = process.width * min(parameters.in_training, LIVE)
    held = weights + process.on_device + gradients + process.bucket
    sub_group = 0 if process.offload else MASTER * min(SUB_GROUP, max(parameters.groups)) / process.processes
    backward = held + gathered + process.counted.peak(0)
    step = held + (1 + process.copies) * sub_group
    return process.result(3, weights=weights, gradients=gradients, backward=backward, step=step)
