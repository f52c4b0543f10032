"""Intervals and tests: known values, coverage, and that captions of one image are drawn together."""

import numpy as np
import pytest

from grace.evaluation.significance import bootstrap_intervals, cluster_sums, paired_p_values

DRAWS = {"resamples": 500, "seed": 0}


def clustered(rng, images=60, captions=5, share=0.9, mean=0.4):
    """Hits [images * captions, 1] whose captions mostly succeed or fail with their image; mean `mean`."""
    image = rng.random((images, 1)) < mean
    own = rng.random((images, captions)) < mean
    hits = np.where(rng.random((images, captions)) < share, image, own)
    return hits.reshape(-1, 1).astype(float), np.repeat(np.arange(images), captions)


def test_cluster_sums_against_a_loop():
    rng = np.random.default_rng(0)
    values, clusters = rng.random((50, 3)), rng.integers(0, 7, 50).astype(str)
    sums, sizes = cluster_sums(values, clusters)
    for row, name in enumerate(np.unique(clusters)):
        np.testing.assert_allclose(sums[row], values[clusters == name].sum(axis=0))
        assert sizes[row] == (clusters == name).sum()


def test_interval_against_a_slow_bootstrap():
    values, clusters = clustered(np.random.default_rng(1))
    fast = bootstrap_intervals(values, clusters, confidence=0.95, resamples=4000, seed=0)[0]
    rng = np.random.default_rng(2)
    groups = [values[clusters == c, 0] for c in np.unique(clusters)]
    means = [np.concatenate([groups[i] for i in rng.integers(0, len(groups), len(groups))]).mean() for _ in range(4000)]
    np.testing.assert_allclose(fast, np.quantile(means, [0.025, 0.975]), atol=0.015)


def test_interval_against_the_normal_formula():
    rng = np.random.default_rng(0)
    values = (rng.random((2000, 1)) < 0.3).astype(float)
    low, high = bootstrap_intervals(values, np.arange(2000), confidence=0.9, resamples=2000, seed=0)[0]
    mean = values.mean()
    half = 1.645 * np.sqrt(mean * (1 - mean) / 2000)
    assert low == pytest.approx(mean - half, abs=0.003) and high == pytest.approx(mean + half, abs=0.003)


def test_blocks_do_not_change_the_result(monkeypatch):
    values, clusters = clustered(np.random.default_rng(1))
    interval = bootstrap_intervals(values, clusters, confidence=0.95, **DRAWS)
    p_value = paired_p_values(values - 0.5, clusters, **DRAWS)
    monkeypatch.setattr("grace.evaluation.significance.CELLS", 60 * 7)
    np.testing.assert_allclose(bootstrap_intervals(values, clusters, confidence=0.95, **DRAWS), interval)
    # 8-bit draws are not one stream: other signs, the same law.
    np.testing.assert_allclose(paired_p_values(values - 0.5, clusters, **DRAWS), p_value, atol=0.05)


def test_unclustered_intervals_are_too_narrow():
    values, clusters = clustered(np.random.default_rng(3))
    together = np.diff(bootstrap_intervals(values, clusters, confidence=0.95, **DRAWS)[0])
    apart = np.diff(bootstrap_intervals(values, np.arange(len(values)), confidence=0.95, **DRAWS)[0])
    assert together > 1.6 * apart


def test_coverage_is_near_the_stated_confidence_only_when_clustered():
    rng = np.random.default_rng(4)
    covered = np.zeros(2)
    for trial in range(150):
        values, clusters = clustered(rng)
        for way, groups in enumerate((clusters, np.arange(len(values)))):
            low, high = bootstrap_intervals(values, groups, confidence=0.95, resamples=200, seed=trial)[0]
            covered[way] += low <= 0.4 <= high
    assert 0.88 <= covered[0] / 150 <= 0.99
    assert covered[1] / 150 < 0.8


def test_clusters_of_unequal_size_are_weighted_by_their_queries():
    values = np.r_[np.ones(90), np.zeros(10)][:, None]
    clusters = np.r_[np.zeros(90), np.arange(1, 11)]
    low, high = bootstrap_intervals(values, clusters, confidence=0.95, **DRAWS)[0]
    assert low == 0.0 and high > 0.95  # a resample without the large image holds no hit


def test_p_value_against_all_sign_flips():
    differences = np.array([0.5, 0.25, 1.0, -0.25, 0.5, 0.75])
    signs = np.array(np.meshgrid(*[[-1, 1]] * 6)).reshape(6, -1).T
    exact = (np.abs(signs @ differences) >= differences.sum() - 1e-12).mean()
    found = paired_p_values(differences[:, None], np.arange(6), resamples=20_000, seed=0)[0]
    assert found == pytest.approx(exact, abs=0.01)


def test_p_value_extremes():
    assert paired_p_values(np.zeros((40, 1)), np.arange(40), **DRAWS)[0] == 1.0
    assert paired_p_values(np.ones((40, 1)), np.arange(40), **DRAWS)[0] == pytest.approx(1 / 501)
    assert paired_p_values(np.ones((40, 1)), np.zeros(40), **DRAWS)[0] == 1.0  # one image is no evidence


def test_p_values_of_no_difference_are_uniform_only_when_clustered():
    rng = np.random.default_rng(5)
    rejected = np.zeros(2)
    for trial in range(150):
        one, clusters = clustered(rng)
        other, _ = clustered(rng)
        for way, groups in enumerate((clusters, np.arange(len(one)))):
            rejected[way] += paired_p_values(one - other, groups, resamples=199, seed=trial)[0] <= 0.05
    assert rejected[0] / 150 <= 0.1
    assert rejected[1] / 150 > 0.15


def test_same_seed_same_numbers_other_seed_others():
    values, clusters = clustered(np.random.default_rng(1))
    again = [bootstrap_intervals(values, clusters, confidence=0.95, resamples=100, seed=seed) for seed in (0, 0, 1)]
    assert (again[0] == again[1]).all() and (again[0] != again[2]).any()


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="need"):
        cluster_sums(np.zeros((3, 1)), [1, 2])
