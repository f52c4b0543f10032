"""structured: the path of an image in a hierarchical k-means tree over the image embeddings.

Every cluster of more than `leaf_size` images is split into at most `clusters` clusters by k-means; a symbol a level
says which. In a cluster of at most `leaf_size` images, a leaf, the last symbol is the position of the image. A symbol
of a level is one new token, `<s{level}_{symbol}>`. A cluster that k-means cannot split (identical embeddings) or that
lies at `max_depth` is cut in order into equal parts, and those again, until every part is a leaf: this always ends.

Method: Tay et al., "Transformer Memory as a Differentiable Search Index", 2022; k = c = 30 in Li et al., ACL 2024.
"""

from __future__ import annotations

import warnings
from collections import deque

import numpy as np
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from grace.identifiers.base import Assignment, Inputs


def structured(inputs: Inputs) -> Assignment:
    """One identifier an image; new tokens are those of the symbols in use, by level and symbol."""
    settings = inputs.settings
    paths = cluster_paths(inputs.embeddings, settings.clusters, settings.leaf_size, settings.max_depth, inputs.seed)
    depth = max(map(len, paths))
    used = [sorted({path[level] for path in paths if len(path) > level}) for level in range(depth)]
    names = [(level, symbol) for level, symbols in enumerate(used) for symbol in symbols]
    token_of = {name: len(inputs.tokenizer) + place for place, name in enumerate(names)}
    return Assignment(
        np.arange(len(paths)),
        [[token_of[name] for name in enumerate(path)] for path in paths],
        ["".join(_name(*name) for name in enumerate(path)) for path in paths],
        [_name(*name) for name in names],
    )


def cluster_paths(embeddings: np.ndarray, clusters: int, leaf_size: int, max_depth: int, seed: int) -> list[list[int]]:
    """Paths (symbols from level 0) of the rows of `embeddings`, float32 [n, D], all different and prefix-free.

    Breadth first, so that the same seed draws the same k-means starts; on one thread, because the order of sums over
    threads may change the last bit of a centre.
    """
    generator = np.random.default_rng([seed, 2])
    paths: list[list[int]] = [[] for _ in range(len(embeddings))]
    queue = deque([(np.arange(len(embeddings)), 0)])
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different points than clusters: seen below
        while queue:
            members, depth = queue.popleft()
            if len(members) <= leaf_size:
                parts = [members[place : place + 1] for place in range(len(members))]
            else:
                parts = _split(embeddings[members], members, clusters, depth < max_depth, generator)
                queue.extend((part, depth + 1) for part in parts)
            for symbol, part in enumerate(parts):
                for member in part.tolist():
                    paths[member].append(symbol)
    return paths


def _split(
    points: np.ndarray, members: np.ndarray, clusters: int, by_distance: bool, generator: np.random.Generator
) -> list[np.ndarray]:
    """Two or more non-empty parts of `members` (at least two): by k-means, or in order where that finds one cluster."""
    clusters = min(clusters, len(members))
    if by_distance and (points != points[0]).any():
        means = KMeans(clusters, n_init=1, random_state=int(generator.integers(2**31))).fit(points)
        parts = [members[means.labels_ == label] for label in range(clusters)]
        parts = [part for part in parts if len(part)]
        if len(parts) > 1:
            return parts
    return np.array_split(members, clusters)


def _name(level: int, symbol: int) -> str:
    return f"<s{level}_{symbol}>"
