"""Activation checkpointing that saves memory: open_flamingo's own flag marks modules and does nothing else.

Every decoder layer, cross-attention included, and the perceiver are computed again in the backward pass; what is kept of a
layer is its input. open_flamingo hands a layer its image through attributes that are cleared after the forward pass, so
the image is made an argument of what is recomputed.
"""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint


def checkpoint_activations(model: nn.Module) -> None:
    """Recompute the decoder layers and the perceiver of a `GraceFlamingo` in its backward pass; changes it in place.

    Names of parameters, losses and gradients stay as they are. Nothing is recomputed where no gradient is asked for.
    """
    for layer in model.lang_encoder._get_decoder_layers():
        _checkpoint_layer(layer)
    plain = model.perceiver.forward
    model.perceiver.forward = lambda visual: checkpoint(plain, visual, use_reentrant=False)


def _checkpoint_layer(layer: nn.Module) -> None:
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

    layer.forward = forward


def _condition(layer: nn.Module, condition: tuple[Any, Any, Any]) -> None:
    media, locations, cached = condition
    layer.condition_vis_x(media)
    layer.condition_media_locations(locations)
    layer.condition_use_cached_media(cached)
