"""Shapes without data: a tokenizer and batches of a given size, for counting and measuring.

Nothing here contains text or images; token ids are zeros, and every sequence has the maximum length.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from grace.model.batches import PAD_IMAGE, Batch


class Words:
    """The parts of a tokenizer that `grace.model.flamingo.build` uses: its size and its special tokens."""

    pad_token_id = 2

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def convert_tokens_to_ids(self, token: str) -> int:
        return {"<image>": 0, "<|endofchunk|>": 1}[token]


@dataclass(frozen=True)
class Shape:
    """The shape of one micro-batch of one process."""

    memorize: int  # samples with their own image
    retrieve: int  # samples with the pad image
    pseudo: int  # samples with the pad image, in a separate batch
    length: int  # tokens of every retrieve and pseudo sequence, including padding
    supervised: int  # tokens per sample that contribute to the loss
    vocabulary: int
    visual_tokens: int
    visual_width: int
    memorize_length: int = 16  # tokens of every memorize sequence

    @property
    def samples(self) -> int:
        return self.memorize + self.retrieve + self.pseudo

    def times(self, factor: float) -> Shape:
        """The same shape with `factor` times the samples, but at least one of each kind present."""
        counts = {name: getattr(self, name) for name in ("memorize", "retrieve", "pseudo")}
        scaled = {name: max(1, round(count * factor)) if count else 0 for name, count in counts.items()}
        return Shape(**{**vars(self), **scaled})


def batches(shape: Shape) -> list[Batch]:
    """One micro-batch, one batch per kind, as made by `grace.training.sampler.Batches`; on the device of the context."""
    kinds = (
        ("memorize", shape.memorize, shape.memorize_length, True),
        ("retrieve", shape.retrieve, shape.length, False),
        ("pseudo", shape.pseudo, shape.length, False),
    )
    return [_batch(shape, kind, count, length, own) for kind, count, length, own in kinds if count]


def _batch(shape: Shape, kind: str, count: int, length: int, own_images: bool) -> Batch:
    images = count if own_images else 1
    supervised = min(shape.supervised, length)
    rows = torch.arange(count).repeat_interleave(supervised)
    places = torch.arange(length - supervised, length).repeat(count)
    mask = torch.ones(count, length, dtype=torch.long)
    return Batch(
        input_ids=torch.zeros(count, length, dtype=torch.long),
        attention_mask=mask,
        # a pair of indices: equivalent to a mask, but with a shape that does not depend on values
        supervised=(rows, places),
        next_ids=torch.zeros(len(rows), dtype=torch.long),
        last=torch.full((count,), length - 1),
        visual=torch.zeros(images, shape.visual_tokens, shape.visual_width),
        image_of=torch.arange(count) if own_images else torch.zeros(count, dtype=torch.long),
        labels=torch.empty(0, dtype=torch.long),
        kind=kind,
        images=tuple(range(count)) if own_images else (PAD_IMAGE,),
    )
