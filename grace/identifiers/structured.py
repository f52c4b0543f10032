"""structured: the path of an image in a hierarchical k-means tree over the image embeddings.

Every cluster of more than `leaf_size` images is split into at most `clusters` clusters by k-means; a symbol a level
says which. In a cluster of at most `leaf_size` images, a leaf, the last symbol is the position of the image. A symbol
of a level is one new token, `<s{level}_{symbol}>`. A cluster that k-means cannot split (identical embeddings) or that
lies at `max_depth` is cut in order into equal parts, and those again, until every part is a leaf: this always ends.

With `align` a symbol means about the same under every parent: the children of each parent are matched one to one to a
codebook of the level, k-means centres of all residuals (child centre minus parent centre) at that depth. The tree and the
leaves are the same, only the names of siblings differ; a language model then learns a level once, not once a parent.

Method: Tay et al., "Transformer Memory as a Differentiable Search Index", 2022; k = c = 30 in Li et al., ACL 2024.
"""

from __future__ import annotations

import warnings

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from grace.identifiers.base import Assignment, Inputs


def structured(inputs: Inputs) -> Assignment:
    """One identifier an image; new tokens are those of the symbols in use, by level and symbol."""
    settings = inputs.settings
    paths = cluster_paths(
        inputs.embeddings,
        settings.clusters,
        settings.leaf_size,
        settings.max_depth,
        inputs.seed,
        settings.align,
    )
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


def cluster_paths(
    embeddings: np.ndarray, clusters: int, leaf_size: int, max_depth: int, seed: int, align: bool = True
) -> list[list[int]]:
    """Paths (symbols from level 0) of the rows of `embeddings`, float32 [n, D], all different and prefix-free.

    Level by level, so that the same seed draws the same k-means starts; on one thread, because the order of sums over
    threads may change the last bit of a centre.
    """
    generator = np.random.default_rng([seed, 2])
    paths: list[list[int]] = [[] for _ in range(len(embeddings))]
    parents, depth = [np.arange(len(embeddings))], 0
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different points than clusters: seen below
        while parents:
            families, splits = [], []
            for members in parents:
                if len(members) <= leaf_size:
                    parts = [members[place : place + 1] for place in range(len(members))]
                else:
                    parts = _split(embeddings[members], members, clusters, depth < max_depth, generator)
                    splits.extend(parts)
                families.append((members, parts))
            symbols = _aligned(embeddings, families, generator) if align and len(families) > 1 else None
            for number, (_, parts) in enumerate(families):
                for place, part in enumerate(parts):
                    for member in part.tolist():
                        paths[member].append(place if symbols is None else symbols[number][place])
            parents, depth = splits, depth + 1
    return paths


def _aligned(
    embeddings: np.ndarray, families: list[tuple[np.ndarray, list[np.ndarray]]], generator: np.random.Generator
) -> list[list[int]]:
    """A symbol for each child of each parent: the codeword that its residual is matched to, no two siblings alike."""
    residuals = [
        np.stack([embeddings[part].mean(0) for part in parts]) - embeddings[members].mean(0)
        for members, parts in families
    ]
    flat = np.concatenate(residuals)
    size = max(len(parts) for _, parts in families)
    seed = int(generator.integers(2**31))
    if len(np.unique(flat, axis=0)) < size:  # identical embeddings: there is nothing to align
        return [list(range(len(parts))) for _, parts in families]
    codebook = KMeans(size, n_init=1, random_state=seed).fit(flat).cluster_centers_
    return [linear_sum_assignment(cdist(children, codebook, "sqeuclidean"))[1].tolist() for children in residuals]


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
