"""Floating-point operations of a training step: the matrix products of every part, computed from shapes.

A product of [m, k] and [k, n] counts 2 m k n operations. The backward pass counts twice the forward pass, as every product
has two gradients (utilisation in the literature refers to the sum; recomputation by activation checkpointing comes on top and
only counts towards time). Norms, softmax and the optimizer, about a percent, are ignored. Checked against
torch.utils.flop_counter in tests/unit/test_plan.py.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from grace.plan.shapes import Shape


def forward_flops(model: Any, shape: Shape, share_images: bool = False) -> dict[str, int]:
    """Operations of the forward pass of one micro-batch, by part: perceiver, language_model, cross_attention, head."""
    sequences = [(shape.memorize, shape.memorize_length), (shape.retrieve + shape.pseudo, shape.length)]
    pads = min(1, shape.retrieve + shape.pseudo) if share_images else sum(map(bool, (shape.retrieve, shape.pseudo)))
    images = shape.memorize + pads
    out = {"perceiver": images * _perceiver(model.perceiver, shape.visual_tokens)}
    layers = model.lang_encoder._get_decoder_layers()
    latents = model.perceiver.latents.shape[0]
    out["language_model"] = sum(
        count * (2 * _matrices(layer.decoder_layer) * length + 4 * length**2 * _width(model))
        for layer in layers
        for count, length in sequences
    )
    out["cross_attention"] = sum(
        count * _cross_attention(layer.gated_cross_attn_layer, length, latents)
        for layer in layers
        if layer.gated_cross_attn_layer is not None
        for count, length in sequences
    )
    positions = sum(count * min(shape.supervised, length) for count, length in sequences)
    out["head"] = 2 * model.lang_encoder.get_output_embeddings().weight.numel() * positions
    return out


def step_flops(forward: dict[str, int]) -> int:
    """Model operations of a training step: three times the forward pass."""
    return 3 * sum(forward.values())


def computed_flops(forward: dict[str, int], checkpointing: bool) -> int:
    """Operations actually executed: with activation checkpointing, everything but the head is computed once more."""
    return step_flops(forward) + (sum(forward.values()) - forward["head"] if checkpointing else 0)


def _matrices(module: nn.Module) -> int:
    return sum(part.weight.numel() for part in module.modules() if isinstance(part, nn.Linear))


def _width(model: Any) -> int:
    return model.lang_encoder.get_input_embeddings().embedding_dim


def _perceiver(perceiver: Any, tokens: int) -> int:
    """For one image of `tokens` visual tokens: latents attend to tokens and latents."""
    latents, total = perceiver.latents.shape[0], 0
    for attention, feed_forward in perceiver.layers:
        inner = attention.to_q.out_features
        seen = tokens + latents
        total += (
            2 * latents * (attention.to_q.weight.numel() + attention.to_out.weight.numel() + _matrices(feed_forward))
        )
        total += 2 * seen * attention.to_kv.weight.numel() + 4 * latents * seen * inner
    return total


def _cross_attention(block: Any, length: int, latents: int) -> int:
    """For one sequence of `length` tokens that attends to one image of `latents` latents."""
    attention = block.attn
    per_token = attention.to_q.weight.numel() + attention.to_out.weight.numel() + _matrices(block.ff)
    inner = attention.to_q.out_features
    return 2 * length * per_token + 2 * latents * attention.to_kv.weight.numel() + 4 * length * latents * inner
