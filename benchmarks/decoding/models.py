"""Flamingos with random weights for the comparisons, built by the pipeline's own code (`grace.model.flamingo.build`).

They read prompts of random words: compared are speed and agreement, not the quality of answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from grace.model.flamingo import GraceFlamingo, build
from grace.workflow.config import Flamingo, ScratchLanguageModel

VISUAL_WIDTH = 512
VISUAL_TOKENS = 50


@dataclass(frozen=True)
class Vocabulary:
    """The parts of a tokenizer that `build` uses: a size, and the three special tokens at its end."""

    size: int
    special = ("<PAD>", "<image>", "<|endofchunk|>")

    def __len__(self) -> int:
        return self.size

    def convert_tokens_to_ids(self, token: str) -> int:
        return self.size - len(self.special) + self.special.index(token)

    @property
    def pad_token_id(self) -> int:
        return self.convert_tokens_to_ids("<PAD>")

    @property
    def end(self) -> int:
        return self.convert_tokens_to_ids("<|endofchunk|>")


@dataclass(frozen=True)
class Model:
    flamingo: GraceFlamingo
    vocabulary: Vocabulary
    media: Tensor
    """The resampled pad image, [1, 1, N, C]."""

    @property
    def parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.flamingo.parameters())


def make(settings: dict[str, Any]) -> Model:
    """A model of `architecture`, `width`, `layers`, `heads`, `vocabulary`, `cross_attention_every` and `dtype`.

    The weights are doubled, so that scores of different identifiers differ by much more than rounding errors.
    """
    words = Vocabulary(settings["vocabulary"])
    names = ("architecture", "width", "layers", "heads")
    scratch = ScratchLanguageModel(**{name: settings[name] for name in names}, max_length=256)
    flamingo_settings = Flamingo(
        scratch=scratch,
        cross_attention_every=settings["cross_attention_every"],
        cross_attention_heads=8,
        cross_attention_head_dim=64,
        perceiver_latents=64,
    )
    usual = torch.get_default_dtype()
    # created in that precision, since twice the size may not fit
    torch.set_default_dtype(getattr(torch, settings["dtype"]))
    try:
        model = build(flamingo_settings, words, VISUAL_WIDTH).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(usual)
    for parameter in model.lang_encoder.parameters():
        parameter.mul_(2.0)
    tokens = torch.randn(1, VISUAL_TOKENS, VISUAL_WIDTH, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return Model(model, words, model.resample(tokens))


def prompts(model: Model, queries: int, length: int, seed: int = 0) -> Tensor:
    """Random prompts with `<image>` four tokens before their end, int64 [queries, length]."""
    words = torch.randint(
        0, len(model.vocabulary) - 3, (queries, length), generator=torch.Generator().manual_seed(seed)
    )
    words[:, -4] = model.vocabulary.convert_tokens_to_ids("<image>")
    return words
