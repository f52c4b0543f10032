"""Bytes of one training process under every ZeRO stage: weights, gradients, optimizer, activations, and the two peaks of a step.

What DeepSpeed 0.19 keeps, read from its source and in part held against measured peaks (`python -m benchmarks.plan`).
docs/training.md has the same as formulas, and says which part.
"""

from __future__ import annotations

from dataclasses import dataclass

from grace.plan.activations import Counted
from grace.training.parameters import Parameters
from grace.workflow.config import Training

# DeepSpeed's defaults, elements: https://www.deepspeed.ai/docs/config-json/#zero-optimizations-for-fp16-training
BUCKET = 500_000_000  # reduce_bucket_size: gradients are put together in a buffer of so many before they are sent
LIVE = 1_000_000_000  # stage3_max_live_parameters and stage3_max_reuse_distance: gathered weights that stay
SUB_GROUP = 1_000_000_000  # sub_group_size: ZeRO 3 steps so many parameters at a time
MASTER, ADAM = 4, 8  # bytes a trained parameter: fp32 weights, and the two fp32 moments


@dataclass(frozen=True)
class Memory:
    """Bytes of one process on its device, and on the host where the optimizer is offloaded."""

    zero_stage: int
    offload: bool
    weights: int
    optimizer: int  # fp32 master weights and moments
    gradients: int  # that are kept until the step
    activations: int  # and everything else of the forward and backward pass
    backward: int  # largest during forward and backward
    step: int  # largest during the optimizer's step
    host: int

    @property
    def peak(self) -> int:
        return max(self.backward, self.step)


@dataclass(frozen=True)
class _Process:
    """One training process: what it trains, and the sizes that follow from its precision and device."""

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
        """Bytes of the optimizer's states, wherever they are."""
        return (MASTER + ADAM) * self.shard

    @property
    def on_device(self) -> float:
        """Bytes of the optimizer's states on the device."""
        return 0 if self.offload else self.states

    @property
    def on_host(self) -> float:
        """Bytes on the host: the states, fp32 gradients, and weights on their way back."""
        return self.states + MASTER * self.shard + self.width * self.shard if self.offload else 0

    @property
    def bucket(self) -> int:
        """Bytes of the buffer in which gradients are put together."""
        return self.width * (BUCKET if self.gpu else min(BUCKET, self.parameters.trained))

    @property
    def copies(self) -> int:
        """Copies that AdamW makes of what it steps at once: the root of the second moment, on a processor also the quotient."""
        return 1 if self.gpu else 2

    def backward_peak(self, gradients: float, ready: float) -> float:
        """The largest activations and gradients. `gradients`: bytes kept until the step; `ready`: the share of those that are
        ready which stays on the device, where each step has one micro-batch."""
        if self.training.gradient_accumulation > 1:  # those of the micro-batches before are all there
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

    With `gpu` False, as on a processor: of a buffer that is asked for only the part that is written counts, and AdamW goes
    through the parameters one by one.
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
    """Plain AdamW in fp32: the weights are their own master copy, so each process has two moments a parameter."""
    parameters, trained = process.parameters, process.parameters.trained
    weights, optimizer, gradients = 4 * parameters.in_training, ADAM * trained, 4 * trained
    at_once = max(parameters.groups) if process.gpu else parameters.largest
    # Gradients are put together, a bucket at a time, for the processes' mean, be it of one.
    together = gradients + 4 * min(BUCKET, trained)
    backward = weights + optimizer + process.backward_peak(gradients, ready=1)
    step = weights + optimizer + max(together, gradients + 4 * at_once * process.copies)
    return Memory(0, False, weights, optimizer, gradients, process.counted.peak(0), backward, step, host=0)


def _zero_1_or_2(process: _Process, zero_stage: int) -> Memory:
    """Optimizer states are sharded; under ZeRO 2 gradients too, and offloading takes those off the device as they come."""
    weights = process.width * process.parameters.in_training
    every = process.width * process.parameters.trained  # bytes of all gradients
    share = 1.0 if zero_stage == 1 else 1 / process.processes
    gradients = 0 if process.offload and zero_stage == 2 else every * share
    ready = 0 if process.offload else share
    # On a processor the buffer takes the gradients' place, one by one; a GPU's stands beside them.
    buffer = process.bucket if process.gpu else 0
    held = weights + process.on_device
    backward = held + process.backward_peak(gradients, ready) + buffer
    if process.offload:
        step = held + gradients
    else:  # a group is flattened to fp32 and stepped as one tensor
        flat = MASTER * max(process.parameters.groups) / process.processes
        step = held + max(gradients + flat, (1 + process.copies) * flat)
    return process.result(zero_stage, weights=weights, gradients=gradients, backward=backward, step=step)


def _zero_3(process: _Process) -> Memory:
    """Weights are sharded as well, and gathered for the layers that compute; a part of the parameters is stepped at a time."""
    parameters = process.parameters
    weights = process.width * parameters.in_training / process.processes
    gradients = 0 if process.offload else process.width * process.shard
    gathered = process.width * min(parameters.in_training, LIVE)
    held = weights + process.on_device + gradients + process.bucket
    sub_group = 0 if process.offload else MASTER * min(SUB_GROUP, max(parameters.groups)) / process.processes
    backward = held + gathered + process.counted.peak(0)
    step = held + (1 + process.copies) * sub_group
    return process.result(3, weights=weights, gradients=gradients, backward=backward, step=step)
