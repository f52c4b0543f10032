"""Uncertainty of the measures: bootstrap intervals and a paired test, both clustered by image.

Works on arrays of per-query values; used by `python -m grace evaluate`.

The captions of one image are not independent: they share the picture, so they tend to succeed or fail together. The image,
with all its captions, is therefore the unit that is drawn (bootstrap) or whose sign is flipped (permutation); treating the
captions as independent would make intervals too narrow. Everything reduces to sums per cluster, so resampling is one
matrix product.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from grace.system.progress import progress

CELLS = 4_000_000
"""Numbers in a block of the resampling matrix; limits memory to 32 MB however many images there are."""


def cluster_sums(values_QM: np.ndarray, clusters_Q: Sequence[object] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Add up `values_QM` [queries, measures] within clusters: sums [clusters, measures] and sizes [clusters],
    float64."""
    values_QM = np.asarray(values_QM, dtype=np.float64)
    if values_QM.ndim != 2 or len(values_QM) != len(clusters_Q) or not len(values_QM):
        raise ValueError(
            f"{values_QM.shape} values and {len(clusters_Q)} clusters: need [queries, measures] and [queries]"
        )
    codes_Q = np.unique(np.asarray(clusters_Q).astype(str), return_inverse=True)[1]
    sizes_C = np.bincount(codes_Q).astype(np.float64)
    sums_CM = np.stack([np.bincount(codes_Q, weights=column) for column in values_QM.T], axis=1)
    return sums_CM, sizes_C


def bootstrap_intervals(
    values_QM: np.ndarray, clusters_Q: Sequence[object] | np.ndarray, *, resamples: int, confidence: float, seed: int
) -> np.ndarray:
    """Percentile bootstrap intervals of the mean over queries: float64 [measures, 2], low and high.

    Each resample draws as many clusters as there are, with replacement, each with all its queries (cluster bootstrap;
    Davison & Hinkley 1997, section 3.8), and takes the mean over the queries drawn. The values may be differences of two
    systems. A measure that is the same for every cluster (all hits, all misses) has an interval of width 0.
    """
    sums_CM, sizes_C = cluster_sums(values_QM, clusters_Q)
    rng = np.random.default_rng(seed)
    clusters = len(sizes_C)
    means = np.empty((resamples, sums_CM.shape[1]))
    step = max(1, CELLS // clusters)
    for start in progress(range(0, resamples, step), desc="bootstrap", unit="blocks"):
        block = min(step, resamples - start)
        drawn = rng.integers(0, clusters, (block, clusters)) + clusters * np.arange(block)[:, None]
        counts_BC = np.bincount(drawn.ravel(), minlength=block * clusters).reshape(block, clusters).astype(np.float64)
        means[start : start + block] = (counts_BC @ sums_CM) / (counts_BC @ sizes_C)[:, None]
    tail = (1 - confidence) / 2
    return np.quantile(means, [tail, 1 - tail], axis=0).T


def paired_p_values(
    differences_QM: np.ndarray, clusters_Q: Sequence[object] | np.ndarray, *, resamples: int, seed: int
) -> np.ndarray:
    """Two-sided p-values [measures] of `mean difference = 0`: paired sign-flip permutation test, clustered.

    `differences_QM` [queries, measures] are system minus baseline for the same query. Under the null hypothesis the
    two systems are exchangeable, for all captions of an image at once. p = (1 + permutations at least as extreme) /
    (1 + permutations), so it is never 0 (Phipson & Smyth 2010); systems that never differ have p = 1.
    """
    sums_CM, _ = cluster_sums(differences_QM, clusters_Q)
    observed_M = np.abs(sums_CM.sum(axis=0))
    # Sums of reciprocal ranks are not exact: an equal sum must count as extreme despite rounding.
    threshold_M = observed_M - 1e-9 * np.abs(sums_CM).sum(axis=0)
    rng = np.random.default_rng(seed)
    clusters = len(sums_CM)
    extreme_M = np.zeros(sums_CM.shape[1])
    step = max(1, CELLS // clusters)
    for start in progress(range(0, resamples, step), desc="permutations", unit="blocks"):
        signs_BC = rng.integers(0, 2, (min(step, resamples - start), clusters), dtype=np.int8) * 2.0 - 1.0
        extreme_M += (np.abs(signs_BC @ sums_CM) >= threshold_M).sum(axis=0)
    return (1 + extreme_M) / (1 + resamples)


def seed_p_values(differences_SQM: np.ndarray, clusters_Q: Sequence[object] | np.ndarray) -> np.ndarray:
    """Two-sided p-values [measures] of `mean difference = 0` where images and seeds are both drawn at random.

    `differences_SQM` [seeds, queries, measures] (at least two seeds) are system minus baseline. Every seed answers the
    same queries, so the two factors are crossed: the squared standard error over images (of means over seeds) and that
    over seeds (of means over images) are added (min F', Clark 1973), and the quotient is a t. Its degrees of freedom
    are Satterthwaite's, but at most two for every seed after the first, because with few seeds that estimate is itself
    uncertain: in simulations, two or three seeds that vary much call up to 7 % of equal systems different at the level
    5 %, without the bound up to 13 %. Images may have different numbers of captions: the mean is a ratio of sums, and
    its error that of the linearised ratio.
    """
    from scipy.special import stdtr  # slow to import, so it is not imported with this module

    sums = [cluster_sums(of_seed, clusters_Q) for of_seed in differences_SQM]
    sums_SCM, sizes_C = np.stack([of_seed for of_seed, _ in sums]), sums[0][1]
    seeds, clusters = sums_SCM.shape[:2]
    if clusters < 2:
        return np.ones(sums_SCM.shape[2])  # one image is not enough for a test
    mean_M = sums_SCM.sum((0, 1)) / (seeds * sizes_C.sum())
    rest_SCM = (sums_SCM - sizes_C[None, :, None] * mean_M) / sizes_C.mean()
    of_images_M = rest_SCM.mean(0).var(0, ddof=1) / clusters
    of_seeds_M = rest_SCM.mean(1).var(0, ddof=1) / seeds
    square_M = of_images_M + of_seeds_M
    with np.errstate(divide="ignore", invalid="ignore"):
        freedom_M = square_M**2 / (of_images_M**2 / (clusters - 1) + of_seeds_M**2 / (seeds - 1))
        freedom_M = np.minimum(freedom_M, 2 * (seeds - 1))
        p_M = 2 * stdtr(freedom_M, -np.abs(mean_M) / np.sqrt(square_M))
    # Without any spread t is undefined: there is no difference anywhere, or the same one everywhere.
    return np.where(square_M > 0, p_M, np.where(mean_M == 0, 1.0, 0.0))
