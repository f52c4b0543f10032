"""structured: the path of an image in a hierarchical k-means tree over the image embeddings.

Every cluster of more than `leaf_size` images is split into at most `clusters` clusters by k-means; the path has one symbol
per level for the chosen cluster. In a cluster of at most `leaf_size` images, a leaf, the last symbol is the position of the
image. Every symbol of a level is a new token, `<s{level}_{symbol}>`. A cluster that k-means cannot split (identical
embeddings), or one at `max_depth`, is divided in order into equal parts, repeatedly, until every part is a leaf; this always
terminates.

With `align` a symbol means roughly the same under every parent: the children of each parent are matched one to one to a
codebook of the level, the k-means centres of all residuals (child centre minus parent centre) at that depth. Tree and
leaves stay the same, only siblings are renamed; a language model then learns each level once instead of once per parent.

At scale: a cluster of more than `LARGE` images is split by mini-batch k-means, and a codebook is fitted to about `LARGE`
residuals; the clusters of a level are split in parallel, one CPU core each. Embeddings may be a memory map and are read one
cluster at a time. `python -m benchmarks.data.structured_identifiers` measures time, memory and balance.

Method: Tay et al., "Transformer Memory as a Differentiable Search Index", 2022; k = c = 30 in Li et al., ACL 2024.
Mini-batch k-means: Sculley, "Web-Scale K-Means Clustering", 2010.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from concurrent.futures import Executor, ThreadPoolExecutor

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist
from sklearn.cluster import KMeans, MiniBatchKMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from grace.identifiers.base import Assignment, Inputs
from grace.system.openmp import openmp_threads
from grace.system.progress import busy, progress

LARGE = 32_768
"""Cluster size above which k-means runs in mini-batches; approximate number of residuals for a codebook."""
MINI_BATCH = 8_192
AT_ONCE = 1_024
"""Number of rows compared at a time."""

Family = tuple[np.ndarray, list[np.ndarray] | None]
"""The members of a cluster and the parts it was split into; None for a leaf, where every member is a part."""


def structured(inputs: Inputs) -> Assignment:
    """One identifier per image; the new tokens are those of the symbols in use, by level and symbol."""
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
    embeddings: np.ndarray,
    clusters: int,
    leaf_size: int,
    max_depth: int,
    seed: int,
    align: bool = True,
    workers: int | None = None,
) -> list[list[int]]:
    """Paths (symbols from level 0) of the rows of `embeddings`, float32 [n, D], all distinct and prefix-free.

    Works level by level, so that the same seed draws the same k-means starts. Every clustering runs on one thread, because
    the order in which threads add up may change the last bit of a centre; `workers` clusterings run in parallel (default:
    one per CPU core), whose number has no effect on the result.
    """
    generator = np.random.default_rng([seed, 2])
    paths: list[list[int]] = [[] for _ in range(len(embeddings))]
    parents, depth = [np.arange(len(embeddings))], 0
    allowed = len(os.sched_getaffinity(0))
    workers = workers or min(allowed, openmp_threads() or allowed)  # Snakemake sets it to the job's threads
    with (
        threadpool_limits(1),
        ThreadPoolExecutor(workers, initializer=threadpool_limits, initargs=(1,)) as pool,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct points than clusters: handled below
        while parents:
            families = _split_all(embeddings, parents, clusters, leaf_size, depth < max_depth, generator, pool)
            codebook = _codebook(embeddings, families, generator) if align and len(families) > 1 else None
            for (members, parts), symbols in zip(families, _symbols(embeddings, families, codebook, pool), strict=True):
                for symbol, part in zip(symbols, members[:, None] if parts is None else parts, strict=True):
                    for member in part.tolist():
                        paths[member].append(symbol)
            parents, depth = [part for _, parts in families if parts is not None for part in parts], depth + 1
    return paths


def _split_all(
    embeddings: np.ndarray,
    parents: list[np.ndarray],
    clusters: int,
    leaf_size: int,
    by_distance: bool,
    generator: np.random.Generator,
    pool: Executor,
) -> list[Family]:
    """Split every cluster of a level. Seeds are drawn in order before the clusterings start."""

    def seeded(members: np.ndarray) -> tuple[np.ndarray, int | None]:
        by_k_means = len(members) > leaf_size and by_distance and _differ(embeddings, members)
        return members, int(generator.integers(2**31)) if by_k_means else None

    def split(job: tuple[np.ndarray, int | None]) -> Family:
        members, seed = job
        return members, None if len(members) <= leaf_size else _parts(embeddings, members, clusters, seed)

    jobs = [seeded(members) for members in parents]
    return list(progress(pool.map(split, jobs), total=len(jobs), desc="split", unit="clusters"))


def _parts(embeddings: np.ndarray, members: np.ndarray, clusters: int, seed: int | None) -> list[np.ndarray]:
    """Two or more non-empty parts of `members` (at least two): by k-means, or in order if that finds one cluster."""
    clusters = min(clusters, len(members))
    if seed is not None:
        means = (
            KMeans(clusters, n_init=1, random_state=seed)
            if len(members) <= LARGE
            else MiniBatchKMeans(clusters, batch_size=MINI_BATCH, n_init=1, random_state=seed)
        )
        # the whole array is not copied: for a million images it takes gigabytes
        points = embeddings if len(members) == len(embeddings) else embeddings[members]
        labels = means.fit(points).labels_
        parts = [part for label in range(clusters) if len(part := members[labels == label])]
        if len(parts) > 1:
            return parts
    return np.array_split(members, clusters)


def _codebook(embeddings: np.ndarray, families: list[Family], generator: np.random.Generator) -> np.ndarray | None:
    """Centres of the residuals of a level, [most children of a parent, D]; None if there are too few distinct residuals."""
    counts = np.array([len(members) if parts is None else len(parts) for members, parts in families])
    size, seed = int(counts.max()), int(generator.integers(2**31))
    if counts.sum() > LARGE:
        order = np.random.default_rng(seed).permutation(len(families))
        enough = int(np.searchsorted(counts[order].cumsum(), LARGE)) + 1
        families = [families[place] for place in np.sort(order[:enough])]
    residuals = np.concatenate([_residuals(embeddings, family) for family in families])
    if len(np.unique(residuals, axis=0)) < size:  # identical embeddings: nothing to align
        return None
    with busy(f"aligning {len(residuals):,} clusters to {size} symbols"):
        return KMeans(size, n_init=1, random_state=seed).fit(residuals).cluster_centers_


def _symbols(
    embeddings: np.ndarray, families: list[Family], codebook: np.ndarray | None, pool: Executor
) -> Iterable[list[int]]:
    """A symbol for each part of each family: its position, or the codeword that its residual is matched to."""
    if codebook is None:
        return (list(range(len(members if parts is None else parts))) for members, parts in families)

    def matched(family: Family) -> list[int]:
        distances = cdist(_residuals(embeddings, family), codebook, "sqeuclidean")
        return linear_sum_assignment(distances)[1].tolist()

    return progress(pool.map(matched, families), total=len(families), desc="name", unit="clusters")


def _residuals(embeddings: np.ndarray, family: Family) -> np.ndarray:
    """Centres of the parts minus the centre of the family, [parts, D]."""
    members, parts = family
    points = embeddings[members]
    centres = points if parts is None else np.stack([embeddings[part].mean(0) for part in parts])
    return centres - points.mean(0)


def _differ(embeddings: np.ndarray, members: np.ndarray) -> bool:
    """Whether any two of the members' embeddings differ."""
    first = embeddings[members[0]]
    return any(
        (embeddings[members[start : start + AT_ONCE]] != first).any() for start in range(0, len(members), AT_ONCE)
    )


def _name(level: int, symbol: int) -> str:
    return f"<s{level}_{symbol}>"
