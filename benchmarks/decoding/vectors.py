"""Vectors for the dense side: unit length, with structure that an approximate index can exploit, and queries near some.

Independent random vectors have no close neighbours, which would put an index at a disadvantage; these lie near a subspace of
few dimensions, as embeddings of photos do. They are generated in blocks, each with its own seed, and never stored twice.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

BLOCK = 50_000
LATENT = 32
NOISE = 0.05


def blocks(number: int, dimensions: int) -> Iterator[np.ndarray]:
    """`number` vectors, float32 [up to BLOCK, dimensions] at a time."""
    basis = _basis(dimensions)
    for place, first in enumerate(range(0, number, BLOCK)):
        rng = np.random.default_rng([1, place])
        yield _unit(rng, rng.standard_normal((min(BLOCK, number - first), LATENT), dtype=np.float32) @ basis)


def queries(number: int, images: int, dimensions: int) -> np.ndarray:
    """Queries near images of the first block, float32 [number, dimensions]."""
    rng = np.random.default_rng(2)
    near = next(blocks(min(images, BLOCK), dimensions))
    picked = near[rng.integers(0, len(near), number)]
    away = _unit(rng, rng.standard_normal((number, LATENT), dtype=np.float32) @ _basis(dimensions))
    return _unit(rng, picked + 0.3 * away)


def _basis(dimensions: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((LATENT, dimensions), dtype=np.float32) / np.sqrt(LATENT)


def _unit(rng: np.random.Generator, vectors: np.ndarray) -> np.ndarray:
    vectors = vectors + NOISE * rng.standard_normal(vectors.shape, dtype=np.float32)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
