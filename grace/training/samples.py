"""Training samples, and which of them step k trains on.

A sample is a prompt, a target (both token ids) and the row of an image (-1: the pad image). Which samples a step sees is a
pure function of (seed, step, rank), so a resumed run sees what an uninterrupted one would have seen. Every sample comes
once before any comes again; batches hold sequences of like length, drawn over windows of several steps, to pad little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from grace.embeddings import Embeddings

PAD_IMAGE = -1
WINDOW = 8  # steps whose samples are sorted by length together
IGNORE = -100


@dataclass(frozen=True)
class Samples:
    """A pool of samples of one kind. `labels[i]` is the class of sample i (atomic), else empty."""

    prompts: list[list[int]]
    targets: list[list[int]]
    images: np.ndarray  # int64 [n], row of the embeddings or PAD_IMAGE
    labels: np.ndarray  # int64 [n] or [0]
    teacher: np.ndarray | None = None  # f32 [U, D], the tower's embeddings of U captions (distillation)
    captions: np.ndarray | None = None  # int64 [n], the row of it that is the caption of sample i

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
    visual: Tensor  # f32 [U, T, C]: each different image of the batch once
    image_of: Tensor  # int64 [B]: which of them a sequence has
    labels: Tensor  # int64 [B] or [0]
    kind: str
    teacher: Tensor | None = None  # f32 [B, D]: the tower's embedding of the caption (distillation)
    caption: Tensor | None = None  # int64 [B]: the number of the caption
    images: tuple[int, ...] = ()  # rows of the embeddings that `visual` is of, PAD_IMAGE among them

    def to(self, device: torch.device) -> Batch:
        moved = {
            name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
            for name, value in vars(self).items()
        }
        return Batch(**moved)


class Sampler:
    """Which samples of a pool step k trains on."""

    def __init__(self, lengths: np.ndarray, batch: int, seed: Sequence[int], rank: int = 0, world: int = 1) -> None:
        self.lengths, self.batch, self.seed, self.rank, self.world = lengths, batch, tuple(seed), rank, world
        self._permutation = lru_cache(maxsize=2)(self._make_permutation)

    def rows(self, step: int) -> np.ndarray:
        """Rows of the pool for step `step` (from 0) of this rank, int64 [batch]."""
        window, place = divmod(step, WINDOW)
        size = self.batch * self.world
        drawn = self._draw(window * WINDOW * size, WINDOW * size)
        by_length = drawn[np.argsort(self.lengths[drawn], kind="stable")].reshape(WINDOW, self.batch, self.world)
        order = np.random.default_rng([*self.seed, 1, window]).permutation(WINDOW)
        return by_length[order[place], :, self.rank]

    def _draw(self, start: int, count: int) -> np.ndarray:
        """Items start .. start + count of the endless sequence of shuffled epochs."""
        places = np.arange(start, start + count)
        epochs, offsets = np.divmod(places, len(self.lengths))
        out = np.empty(count, dtype=np.int64)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            out[chosen] = self._permutation(int(epoch))[offsets[chosen]]
        return out

    def _make_permutation(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([*self.seed, 0, epoch]).permutation(len(self.lengths))


def collate(
    samples: Samples, rows: np.ndarray, embeddings: Embeddings, pad_id: int, kind: str, prompt_tokens: int
) -> Batch:
    """Pad the given samples. The last `prompt_tokens` tokens of the prompt (the word `id`) are supervised with the target.

    Supervised position l predicts token l + 1; the mask is built from lengths, without a loop over tokens.
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
    """The same batches over one common `visual`, each different image of all of them once: one run of the perceiver a step."""
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
