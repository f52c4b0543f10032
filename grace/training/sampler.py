"""Which samples step k trains on, and its batches.

Both are pure functions of (seed, step, rank), so a resumed run sees what an uninterrupted one sees. Every sample comes once before
any comes again; batches hold sequences of like length, drawn over windows of several steps, to pad little.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch

from grace.model.batches import Batch, collate, share_images
from grace.towers.embeddings import Embeddings
from grace.training.pools import Pool
from grace.training.processes import rank, world_size
from grace.workflow.config import Training

WINDOW = 8  # steps whose samples are sorted by length together


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


class Batches:
    """The batches of every micro-step: a pure function of the seed, the micro-step and the rank."""

    def __init__(
        self, pools: Sequence[Pool], objective: str, seed: int, embeddings: Embeddings, pad_id: int, training: Training
    ) -> None:
        self.pools, self.embeddings, self.pad_id, self.share = pools, embeddings, pad_id, training.share_images
        self.samplers = [
            Sampler(pool.samples.lengths(), pool.batch, (seed, place), rank(), world_size())
            for place, pool in enumerate(pools)
        ]
        # Captions are supervised from their first token on, identifiers from the prompt's word `id` on.
        self.prompt_tokens = 0 if objective == "caption" else 1
        self.size = sum(pool.batch for pool in pools)  # samples of a micro-step and process

    def of(self, micro: int, device: torch.device) -> list[Batch]:
        """One batch for each pool, on `device`; `micro` counts micro-steps from 0."""
        batches = [
            collate(pool.samples, sampler.rows(micro), self.embeddings, self.pad_id, pool.kind, self.prompt_tokens)
            for pool, sampler in zip(self.pools, self.samplers, strict=True)
        ]
        moved = [batch.to(device) for batch in batches]
        return share_images(moved) if self.share else moved
