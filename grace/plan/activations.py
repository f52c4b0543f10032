"""Memory of a training step besides the model's states, counted rather than estimated.

The forward and backward pass of one micro-batch run with their real shapes on fake tensors, which have no memory, and every
allocation is counted (`LiveBytes`). The count reflects the configuration: the family of the language model, activation
checkpointing, chunked loss, shared images, frozen parts, bf16.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from grace.model.batches import share_images
from grace.model.flamingo import build
from grace.plan.shapes import Shape, Words, batches
from grace.plan.tracker import LiveBytes
from grace.training.learner import Learner, prepare_parameters
from grace.training.model_in_training import ModelInTraining
from grace.workflow.config import Flamingo, Training


@dataclass(frozen=True)
class Counted:
    """Bytes of one micro-batch, not counting the weights."""

    forward: int  # kept by autograd after the forward pass
    gradients: int  # of all parameters
    # the backward pass: (bytes of finished gradients, peak bytes of everything else at that point)
    timeline: tuple[tuple[int, int], ...]

    def peak(self, kept: float) -> int:
        """The peak bytes if the share `kept` of the finished gradients stays on this device (1: all)."""
        return max(round(ready * kept) + other for ready, other in self.timeline)


def count(flamingo: Flamingo, training: Training, shape: Shape, language_model: dict | None = None) -> Counted:
    """Count one micro-batch of `shape`. `language_model`: the configuration of a pretrained language model."""
    with FakeTensorMode():
        learner = fake_learner(flamingo, training, shape, language_model)
        dealt = batches(shape)
        dealt = share_images(dealt) if training.share_images else dealt
        ready, timeline = 0, []
        with ModelInTraining(learner.flamingo, training).recomputed(), LiveBytes(padded=True) as live:
            for parameter in learner.parameters():
                live.add(parameter)
            own = live.live

            def take(parameter: torch.Tensor) -> None:
                nonlocal ready
                timeline.append((ready, live.peak - own))
                live.reset_peak()
                ready += parameter.grad.untyped_storage().nbytes()
                parameter.grad = None

            for parameter in learner.parameters():
                if parameter.requires_grad:
                    parameter.register_post_accumulate_grad_hook(take)
            loss, _ = learner(dealt)
            forward = live.live - own
            loss.backward()
            timeline.append((ready, live.peak - own))
    return Counted(forward, ready, tuple(timeline))


def fake_learner(flamingo: Flamingo, training: Training, shape: Shape, language_model: dict | None) -> Learner:
    """The module that the engine wraps, made of fake tensors by the surrounding mode."""
    model = build(
        flamingo, Words(shape.vocabulary), shape.visual_width, pretrained=False, language_model_config=language_model
    )
    if training.precision == "bf16":
        _to_bf16(model)
    prepare_parameters(model, training, seed=0)
    return Learner(model, "generate", training.loss_chunk).train()


def _to_bf16(model: nn.Module) -> None:
    """`model.bfloat16()`, which fake parameters do not support; shared parameters stay shared."""
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, value in module._parameters.items():
            if value is not None:
                module._parameters[name] = made.setdefault(id(value), nn.Parameter(value.detach().bfloat16()))
        for name, value in module._buffers.items():
            if value is not None and value.is_floating_point():
                module._buffers[name] = value.bfloat16()
