"""Beam search of transformers on a Flamingo, as called by open_flamingo's `Flamingo.generate`.

It gets one advantage: the pad image is resampled only once, not for every query and beam. As published, every beam then has
its own copy of the image, whose keys and values every cross-attention computes in every pass; `share_image` avoids that too,
as our own search does. Allowed continuations of a prefix come from nested dictionaries through `prefix_allowed_tokens_fn`, as
published.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.decoding.models import Model


@torch.inference_mode()
def generate(
    model: Model, prompts_BL: Tensor, allowed: Callable[[list[int]], list[int]], depth: int, beams: int, cached: bool,
    scores: bool = False, share_image: bool = False,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """The best `beams` identifiers of every query, int64 [B, K, depth], and their scores, f32 [B, K], if requested."""
    words, end, length = model.flamingo.lang_encoder, model.vocabulary.end, prompts_BL.shape[1]
    words._use_cached_vision_x = True
    try:
        media = model.media if share_image else model.media.expand(len(prompts_BL) * beams, -1, -1, -1)
        for layer in words._get_decoder_layers():
            layer.condition_vis_x(media)
        out = words.generate(
            input_ids=prompts_BL, attention_mask=torch.ones_like(prompts_BL), num_beams=beams,
            num_return_sequences=beams, max_new_tokens=depth + 1, do_sample=False, length_penalty=0.0,
            eos_token_id=end, pad_token_id=model.vocabulary.pad_token_id, use_cache=cached,
            prefix_allowed_tokens_fn=lambda _, sent: allowed(sent[length:].tolist()) or [end],
            return_dict_in_generate=True, output_scores=scores,
        )  # fmt: skip
    finally:
        words.clear_conditioned_layers()
        words._use_cached_vision_x = False
    found = out.sequences[:, length : length + depth].view(len(prompts_BL), beams, depth)
    return found, out.sequences_scores.view(len(prompts_BL), beams) if scores else None
