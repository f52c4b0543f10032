"""open_flamingo's Flamingo on precomputed visual tokens.

The vision tower is frozen and runs once, in the stage `encode`; this module has the perceiver resampler and the language
model with its gated cross-attention. The published OpenFlamingo and the small default model differ only in settings.

Legend of shapes: B sequences, L tokens, U distinct images, T visual tokens of the tower, C their width, N perceiver latents,
H width of the language model.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from grace.model.language_models import language_model
from grace.system.errors import GraceError
from grace.system.packaged import need_package
from grace.system.torchvision_shim import import_torchvision
from grace.workflow.config import Flamingo as FlamingoSettings

import_torchvision()
need_package("open_flamingo", "the language model")

from open_flamingo.src.factory import _infer_decoder_layers_attr_name  # noqa: E402
from open_flamingo.src.flamingo import Flamingo  # noqa: E402
from open_flamingo.src.flamingo_lm import FlamingoLMMixin  # noqa: E402
from open_flamingo.src.helpers import GatedCrossAttentionBlock, MaskedCrossAttention, PerceiverResampler  # noqa: E402
from open_flamingo.src.utils import extend_instance  # noqa: E402


class GraceFlamingo(Flamingo):
    """Flamingo that takes images as visual tokens and can return hidden states without the vocabulary head."""

    def resample(self, visual_tokens_UTC: Tensor) -> Tensor:
        """Visual tokens of U images, [U, T, C], to the latents that the language model attends to, [U, 1, N, C]."""
        return self.perceiver(visual_tokens_UTC[:, None, None].to(self.perceiver.norm.weight.dtype))

    def hidden_states(
        self,
        input_ids_BL: Tensor,
        media_B1NC: Tensor,
        attention_mask_BL: Tensor | None = None,
        past_key_values: Any = None,
        position_ids_BL: Tensor | None = None,
    ) -> tuple[Tensor, Any]:
        """Final-norm hidden states [B, L, H] and the cache (None unless one was given).

        Tokens after `<image>` attend to the image; with a cache that already contains `<image>`, every new token does. Pass
        an image shared by all sequences once, [1, 1, N, C]: its keys and values are then computed once per layer instead of
        for every sequence, which in a search costs more than a small language model itself.
        """
        continued = past_key_values is not None and past_key_values.get_seq_length() > 0
        for layer in self.lang_encoder._get_decoder_layers():
            layer.condition_vis_x(media_B1NC)
            # With cached media open_flamingo counts the media of the first call: one image per sequence, before all tokens.
            ones = torch.ones_like(input_ids_BL[:, :1], dtype=torch.bool)
            layer.condition_media_locations(ones if continued else input_ids_BL == self.media_token_id)
            layer.condition_use_cached_media(continued)
        try:
            extra = {} if position_ids_BL is None else {"position_ids": position_ids_BL}
            out = self.lang_encoder.base_model(
                input_ids=input_ids_BL,
                attention_mask=attention_mask_BL,
                past_key_values=past_key_values,
                use_cache=past_key_values is not None,
                **extra,
            )
        finally:
            self.lang_encoder.clear_conditioned_layers()
        return out.last_hidden_state, out.past_key_values if past_key_values is not None else None

    def head(self, hidden: Tensor) -> Tensor:
        """Logits over the vocabulary, [..., V]."""
        return self.lang_encoder.get_output_embeddings()(hidden)

    @property
    def max_length(self) -> int | None:
        """Longest sequence that the language model reads, in tokens."""
        config = self.lang_encoder.config
        return getattr(config, "max_position_embeddings", None) or getattr(config, "max_seq_len", None)


def build(
    settings: FlamingoSettings, tokenizer: Any, visual_width: int, new_tokens: int = 0, pretrained: bool = True,
    language_model_config: dict[str, Any] | None = None,
) -> GraceFlamingo:  # fmt: skip
    """A Flamingo for `tokenizer` plus `new_tokens` identifier tokens.

    `visual_width` is C. With `pretrained` False only the architecture of the language model is built (its weights come from
    a model folder), from `language_model_config` if the folder has one. Random weights are seeded by `settings.seed`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        words = language_model(settings, tokenizer, pretrained, language_model_config)
        extend_instance(words, FlamingoLMMixin)
        try:
            words.set_decoder_layers_attr_name(_infer_decoder_layers_attr_name(words))
        except ValueError:
            raise GraceError(
                f"open_flamingo has no cross-attention for {type(words).__name__}; "
                "use one of OPT, GPT-NeoX, MPT, Llama, GPT-J"
            ) from None
        if settings.language_model == "pretrained" and settings.pretrained.layers:
            _keep_layers(words, settings.pretrained.layers)
        words.resize_token_embeddings(len(tokenizer) + new_tokens, mean_resizing=False)
        media = tokenizer.convert_tokens_to_ids("<image>")
        end = tokenizer.convert_tokens_to_ids("<|endofchunk|>")
        tower = SimpleNamespace(visual=nn.Identity())  # the tower has already run
        model = GraceFlamingo(
            tower, words, end, media, visual_width, cross_attn_every_n_layers=settings.cross_attention_every
        )
        model.media_token_id = media
        _shape_cross_attention(model, settings)
        model.perceiver = PerceiverResampler(
            dim=visual_width, depth=settings.perceiver_depth, num_latents=settings.perceiver_latents
        )
    return model


def add_tokens(model: GraceFlamingo, vocabulary: int, seed: int) -> None:
    """Grow the vocabulary to `vocabulary` tokens; the new rows are random, seeded by `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.lang_encoder.resize_token_embeddings(vocabulary, mean_resizing=False)


def _keep_layers(words: Any, count: int) -> None:
    """Keep the lowest `count` decoder layers; the final norm and the head stay."""
    layers = words._get_decoder_layers()
    if count > len(layers):
        raise GraceError(
            f"flamingo.pretrained.layers is {count}, but the language model has only {len(layers)} decoder layers; lower it"
        )
    words._set_decoder_layers(layers[:count])
    words.config.num_hidden_layers = count


def _shape_cross_attention(model: GraceFlamingo, settings: FlamingoSettings) -> None:
    """Set the heads and gates of the cross-attention from the settings (open_flamingo fixes them at 8 x 64 and 0)."""
    for block in model.lang_encoder.gated_cross_attn_layers:
        if not isinstance(block, GatedCrossAttentionBlock):
            continue
        width = block.attn.to_out.out_features
        block.attn = MaskedCrossAttention(
            dim=width,
            dim_visual=model.vis_dim,
            heads=settings.cross_attention_heads,
            dim_head=settings.cross_attention_head_dim,
        )
        nn.init.constant_(block.attn_gate, settings.gate)
        nn.init.constant_(block.ff_gate, settings.gate)
