"""Samples and padded batches: the prompts, targets and images that a model reads in training and evaluation.

A sample is a prompt, a target (both token ids) and the row of an image (-1: the pad image). Batches are stateless.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from grace.towers.embeddings import Embeddings

PAD_IMAGE = -1
IGNORE = -100


@dataclass(frozen=True)
class Samples:
    """A pool of samples of one kind. `labels[i]` is the class of sample i (atomic), else empty."""

    prompts: list[list[int]]
    targets: list[list[int]]
    images: np.ndarray  # int64 [n], row of the embeddings or PAD_IMAGE
    labels: np.ndarray  # int64 [n] or [0]
    teacher: np.ndarray | None = None  # f32 [U, D], the tower's embeddings of U captions (for distillation)
    captions: np.ndarray | None = None  # int64 [n], the row of `teacher` for the caption of sample i

    def __len__(self) -> int:
        return len(self.prompts)

    def lengths(self) -> np.ndarray:
        return np.array([len(p) + len(t) for p, t in zip(self.prompts, self.targets, strict=True)], dtype=np.int64)


@dataclass(frozen=True)
class Batch:
    """A padded batch. B sequences, L tokens, U different images, S supervised positions."""

    input_ids: Tensor  # int64 [B, L]
    attention_mask: Tensor  # int64 [B, L]
    supervised: Tensor  # bool [B, L]: the next token is part of the loss
    next_ids: Tensor  # int64 [S]
    last: Tensor  # int64 [B]: position of the last real token
    visual: Tensor  # f32 [U, T, C]: each distinct image of the batch once
    image_of: Tensor  # int64 [B]: the row of `visual` for each sequence
    labels: Tensor  # int64 [B] or [0]
    kind: str
    teacher: Tensor | None = None  # f32 [B, D]: the tower's embedding of the caption (distillation)
    caption: Tensor | None = None  # int64 [B]: the index of the caption
    images: tuple[int, ...] = ()  # the embedding row of each image in `visual`, or PAD_IMAGE

    def to(self, device: torch.device) -> Batch:
        moved = {
            name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
            for name, value in vars(self).items()
        }
        return Batch(**moved)


def collate(
    samples: Samples, rows: np.ndarray, embeddings: Embeddings, pad_id: int, kind: str, prompt_tokens: int
) -> Batch:
    """Pad the given samples. The last `prompt_tokens` tokens of a prompt (the word `id`) are supervised like the target.

    Supervised position l predicts token l + 1; the mask is built from the lengths, without a loop over tokens.
    """
    prompts = [samples.prompts[row] for row in rows]
    targets = [samples.targets[row] for row in rows]
    starts = torch.tensor([len(prompt) - prompt_tokens for prompt in prompts])
    # The last target token is predicted, never read.
    inputs = [prompt + target[:-1] for prompt, target in zip(prompts, targets, strict=True)]
    lengths = torch.tensor([len(ids) for ids in inputs])
    places = torch.arange(int(lengths.max()))
    input_ids = torch.full((len(rows), len(places)), pad_id)
    real = places < lengths[:, None]
    input_ids[real] = torch.tensor([token for ids in inputs for token in ids])
    supervised = real & (places >= starts[:, None] - 1) if targets[0] else torch.zeros_like(real)
    following = [
        (prompt + target)[start:] for prompt, target, start in zip(prompts, targets, starts.tolist(), strict=True)
    ]
    images, image_of = np.unique(samples.images[rows], return_inverse=True)
    return Batch(
        input_ids=input_ids,
        attention_mask=real.long(),
        supervised=supervised,
        next_ids=torch.tensor([token for ids in following for token in ids]) if targets[0] else torch.empty(0).long(),
        last=lengths - 1,
        visual=embeddings.visual(images),
        image_of=torch.from_numpy(image_of.astype(np.int64)),
        labels=torch.from_numpy(samples.labels[rows]) if len(samples.labels) else torch.empty(0, dtype=torch.long),
        kind=kind,
        teacher=None if samples.teacher is None else torch.from_numpy(samples.teacher[samples.captions[rows]]),
        caption=None if samples.captions is None else torch.from_numpy(samples.captions[rows]),
        images=tuple(images.tolist()),
    )


def share_images(batches: Sequence[Batch]) -> list[Batch]:
    """The same batches with a common `visual` of all distinct images, so that the perceiver runs once per step."""
    place: dict[int, int] = {}
    kept: list[Tensor] = []
    for batch in batches:
        for row, image in enumerate(batch.images):
            if place.setdefault(image, len(place)) == len(kept):
                kept.append(batch.visual[row])
    visual, images = torch.stack(kept), tuple(place)
    out = []
    for batch in batches:
        moved = torch.tensor([place[image] for image in batch.images], device=batch.image_of.device)
        out.append(replace(batch, visual=visual, image_of=moved[batch.image_of], images=images))
    return out


def batches_of_one_length(prompt_ids: Sequence[Sequence[int]], size: int) -> list[list[int]]:
    """Indices of the prompts in batches of at most `size` prompts of one length, shortest first: nothing has to be padded."""
    by_length = defaultdict(list)
    for index, ids in enumerate(prompt_ids):
        by_length[len(ids)].append(index)
    return [
        group[start : start + size] for _, group in sorted(by_length.items()) for start in range(0, len(group), size)
    ]


def media_of(model, batch: Batch, resampled: Tensor | None = None) -> Tensor:
    """Resampled images, one per sequence, [B, 1, N, C]; each distinct image of the batch is resampled once.

    Uses index_select, because the backward pass of plain indexing sums in an order that depends on the threads.
    """
    return (model.resample(batch.visual) if resampled is None else resampled).index_select(0, batch.image_of)
