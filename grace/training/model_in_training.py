"""A Flamingo while DeepSpeed trains it: recomputed layers, a whole copy to evaluate, and its tensors.

Everything that changes a module behind its class's back is here. Two things make it necessary:

- Activation checkpointing. open_flamingo's own flag marks modules and does nothing else. Wrapping a layer in another module
  would rename its parameters in every state and model file, so `recomputed` replaces `forward` on the instances.
  open_flamingo hands a layer its image through attributes that are cleared after the forward pass, so the image becomes an
  argument of what is recomputed.
- ZeRO 3. DeepSpeed leaves an empty tensor in place of every parameter, and its hooks gather the real ones during a forward
  pass, which all processes must then run alike. In a validation each process has queries of its own, so `whole` gives it a
  copy without hooks that holds the gathered parameters. The structure of that copy is taken before DeepSpeed adds its hooks.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from grace.model.flamingo import GraceFlamingo
from grace.system.weights import unique_tensors
from grace.training.lora import merged
from grace.training.processes import is_first_process
from grace.workflow.config import Training


class ModelInTraining:
    """Make it before the DeepSpeed engine and outside `recomputed`; `validated`: whether `whole` will be used."""

    def __init__(self, model: GraceFlamingo, training: Training, validated: bool = False) -> None:
        self.model, self.training = model, training
        self._hollow = _without_memory(model) if validated and training.zero_stage == 3 else None

    @contextmanager
    def recomputed(self) -> Iterator[None]:
        """Recompute the decoder layers and the perceiver in the backward pass, if `activation_checkpointing` says so.

        Only their inputs are kept. Names of parameters, losses and gradients stay; without a gradient nothing is recomputed.
        """
        with ExitStack() as stack:
            if self.training.activation_checkpointing:
                perceiver = self.model.perceiver
                for layer in self.model.lang_encoder._get_decoder_layers():
                    stack.enter_context(_with_forward(layer, _recomputed_layer(layer)))
                stack.enter_context(
                    _with_forward(perceiver, partial(checkpoint, perceiver.forward, use_reentrant=False))
                )
            yield

    @contextmanager
    def whole(self) -> Iterator[GraceFlamingo]:
        """The model as each process can run it alone: itself, or under ZeRO 3 a copy with the gathered parameters.

        All processes enter together. The copy has the precision of the training; its memory is freed on leaving.
        """
        if self.training.zero_stage < 3:
            yield self.model
            return
        if self._hollow is None:
            raise ValueError("whole() under ZeRO 3 needs ModelInTraining(..., validated=True)")
        filled = self._filled(self._hollow)
        try:
            yield filled
        finally:
            filled.to("meta")  # frees the memory even where the copy is still referenced

    def tensors(self) -> dict[str, Tensor]:
        """The model's tensors by name on the CPU in the first process (others: empty), gathered from ZeRO 3 shards if need be.

        All processes call it together. Adapters are merged into their layers; the atomic head is fp32.
        """
        model, out = self.model, {}
        for name, value in unique_tensors(model).items():
            if self.training.zero_stage < 3:
                if is_first_process():
                    out[name] = value.detach().cpu()
                continue
            with _gathered([value] if isinstance(value, nn.Parameter) else []):
                if is_first_process():
                    out[name] = value.detach().cpu().clone()
        if hasattr(model, "atomic_head") and is_first_process():
            out |= {f"atomic_head.{name}": value.cpu() for name, value in model.atomic_head.exact_values().items()}
        return merged(out, self.training.lora) if "lora" in self.training.trainable else out

    def _filled(self, hollow: GraceFlamingo) -> GraceFlamingo:
        pairs = []
        for (name, value), (other, empty) in zip(self.model.named_parameters(), hollow.named_parameters(), strict=True):
            assert name == other, f"{name} is {other} in the copy"
            with _gathered([value]):
                pairs.append((empty, nn.Parameter(value.detach().clone(), requires_grad=False)))
        filled = _copied(hollow, [*pairs, *((buffer, buffer) for buffer in hollow.buffers())])
        for path, buffer in self.model.named_buffers(remove_duplicate=False):  # moved or set since the copy was taken
            owner, _, name = path.rpartition(".")
            setattr(filled.get_submodule(owner), name, buffer)
        return filled


def _without_memory(model: GraceFlamingo) -> GraceFlamingo:
    """A copy of `model` whose parameters take no memory; its buffers are the model's own."""
    empty = [
        (value, nn.Parameter(torch.empty_like(value, device="meta"), requires_grad=False))
        for value in model.parameters()
    ]
    return _copied(model, [*empty, *((buffer, buffer) for buffer in model.buffers())])


def _copied(model: GraceFlamingo, tensors: Iterable[tuple[Tensor, Tensor]]) -> GraceFlamingo:
    """A deep copy in which the second of each pair stands wherever the first does: tensors that modules share stay shared."""
    return copy.deepcopy(model, {id(old): new for old, new in tensors})


def _gathered(parameters: list[nn.Parameter]) -> Any:
    import deepspeed

    return deepspeed.zero.GatheredParameters(parameters)


@contextmanager
def _with_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Let this instance of `module` run `forward` in place of its own."""
    before = vars(module).get("forward")  # None: the class's
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before


def _recomputed_layer(layer: nn.Module) -> Callable[..., Any]:
    """The forward pass of a decoder layer of open_flamingo that is run again in its backward pass, with the same image."""
    plain = layer.forward

    def conditioned(condition: tuple[Any, Any, Any], *args: Any, **kwargs: Any) -> Any:
        before = (layer.vis_x, layer.media_locations, getattr(layer, "use_cached_media", None))
        _condition(layer, condition)
        try:
            return plain(*args, **kwargs)
        finally:
            _condition(layer, before)

    def forward(*args: Any, **kwargs: Any) -> Any:
        condition = (layer.vis_x, layer.media_locations, layer.use_cached_media)
        return checkpoint(conditioned, condition, *args, use_reentrant=False, **kwargs)

    return forward


def _condition(layer: nn.Module, condition: tuple[Any, Any, Any]) -> None:
    media, locations, cached = condition
    layer.condition_vis_x(media)
    layer.condition_media_locations(locations)
    layer.condition_use_cached_media(cached)
