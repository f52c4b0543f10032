"""Intervals and tests: known values, coverage, and that captions of one image are drawn together."""

import numpy as np
import pytest
from scipy import stats

from grace.evaluation.significance import bootstrap_intervals, cluster_sums, paired_p_values, seed_p_values

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


def crossed(rng, seeds=3, images=40, captions=5, of_seed=0.0, of_image=0.3, mean=0.0):
    """Differences [seeds, images * captions, 1] with an effect of every seed, of every image, and noise; and images."""
    image = np.arange(images).repeat(captions)
    effects = mean + of_seed * rng.standard_normal((seeds, 1)) + of_image * rng.standard_normal(images)[image]
    return (effects + 0.5 * rng.standard_normal((seeds, len(image))))[:, :, None], image


def test_p_over_seeds_against_loops():
    values, clusters = crossed(np.random.default_rng(0), of_seed=0.1, mean=0.2)
    cells = [
        [float(np.mean([v for v, c in zip(run[:, 0], clusters, strict=True) if c == image])) for image in range(40)]
        for run in values
    ]
    by_image = [sum(run[image] for run in cells) / 3 for image in range(40)]
    by_seed = [sum(run) / 40 for run in cells]
    grand = sum(by_seed) / 3
    of_images = sum((value - grand) ** 2 for value in by_image) / 39 / 40
    of_seeds = sum((value - grand) ** 2 for value in by_seed) / 2 / 3
    freedom = (of_images + of_seeds) ** 2 / (of_images**2 / 39 + of_seeds**2 / 2)
    expected = 2 * stats.t.sf(abs(grand) / (of_images + of_seeds) ** 0.5, min(freedom, 4))
    assert 0.001 < expected < 0.9
    assert seed_p_values(values, clusters)[0] == pytest.approx(expected)


def test_p_over_equal_seeds_is_the_t_of_the_test_over_images_with_bounded_degrees_of_freedom():
    values, clusters = crossed(np.random.default_rng(1), seeds=1, mean=0.1)
    by_image = values[0, :, 0].reshape(40, 5).mean(1)
    found = seed_p_values(np.concatenate([values] * 4), clusters)[0]
    assert found == pytest.approx(2 * stats.t.sf(abs(stats.ttest_1samp(by_image, 0).statistic), 2 * 3))
    many = seed_p_values(np.concatenate([values] * 21), clusters)[0]  # the bound of 40 is above the 39 of the images
    assert many == pytest.approx(stats.ttest_1samp(by_image, 0).pvalue) and many < found < 0.9


def test_p_over_equal_images_is_the_t_test_over_seeds():
    of_seeds = np.array([0.02, 0.05, 0.01, 0.04])
    values = np.broadcast_to(of_seeds[:, None, None], (4, 30, 1))
    found = seed_p_values(values, np.arange(30))[0]
    assert found == pytest.approx(stats.ttest_1samp(of_seeds, 0).pvalue)


def test_p_over_seeds_without_spread():
    clusters = np.arange(10)
    assert seed_p_values(np.zeros((2, 10, 1)), clusters)[0] == 1.0
    assert seed_p_values(np.ones((2, 10, 1)), clusters)[0] == 0.0
    assert seed_p_values(np.ones((2, 10, 1)), np.zeros(10))[0] == 1.0  # one image is no evidence


def test_images_with_many_captions_weigh_more_in_the_error_over_images():
    """Against the bootstrap of the mean over images of one to nine captions; equal seeds, so that images alone count."""
    rng = np.random.default_rng(2)
    clusters = np.arange(200).repeat(rng.integers(1, 10, 200))
    values = (1.0 + 0.4 * rng.standard_normal(200)[clusters] + 0.2 * rng.standard_normal(len(clusters)))[:, None]
    low, high = bootstrap_intervals(values, clusters, confidence=0.6827, resamples=4000, seed=0)[0]
    error = (high - low) / 2
    found = seed_p_values(np.stack([values, values]), clusters)[0]
    assert stats.t.isf(found / 2, 2) == pytest.approx(values.mean() / error, rel=0.04)
    unweighted = seed_p_values(np.stack([values, values]), np.arange(len(values)))[0]
    assert stats.t.isf(unweighted / 2, 2) > 1.5 * values.mean() / error


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_seeds_that_differ_by_chance_are_seldom_called_different(seeds):
    """Training seeds have effects of their own and no difference on average: the test over images alone is misled."""
    rng = np.random.default_rng(3)
    rejected = np.zeros(2)
    for trial in range(200):
        values, clusters = crossed(rng, seeds=seeds, of_seed=0.2)
        rejected[0] += seed_p_values(values, clusters)[0] <= 0.05
        rejected[1] += paired_p_values(values.mean(0), clusters, resamples=199, seed=trial)[0] <= 0.05
    assert rejected[0] / 200 <= 0.08 and rejected[1] / 200 >= 0.2


def test_a_difference_that_all_seeds_show_is_found():
    rng = np.random.default_rng(4)
    found = [seed_p_values(*crossed(rng, of_seed=0.02, mean=0.3))[0] <= 0.05 for _ in range(50)]
    assert sum(found) >= 45


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="need"):
        cluster_sums(np.zeros((3, 1)), [1, 2])
