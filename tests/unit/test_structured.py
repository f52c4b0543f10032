"""The tree of clusters behind structured identifiers: small leaves, unique paths, and an end whatever the embeddings."""

from __future__ import annotations

import signal
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grace.identifiers.structured import cluster_paths
from grace.identifiers.tree import Trie
from grace.system.openmp import openmp_threads
from grace.workflow.config import Identifiers

SMALL = Identifiers(clusters=3, leaf_size=3)


def test_structured_paths_are_a_tree_of_small_leaves(make):
    tables = make("structured")
    paths = [tuple(text[1:-1].split("><")) for text in tables.table["text"]]
    leaves = Counter(path[:-1] for path in paths)
    assert max(leaves.values()) <= 3
    for path in paths:
        assert [symbol.split("_")[0] for symbol in path] == [f"s{level}" for level in range(len(path))]
        assert all(int(symbol.split("_")[1]) < 3 for symbol in path)


def test_structured_neighbours_share_their_first_symbol():
    generator = np.random.default_rng(0)
    centres = np.eye(4, 16, dtype=np.float32) * 10
    points = np.repeat(centres, 10, axis=0) + generator.normal(scale=0.1, size=(40, 16)).astype(np.float32)
    order = generator.permutation(40)
    paths = cluster_paths(points[order], clusters=4, leaf_size=10, max_depth=5, seed=1)
    groups = [{path[0] for path, place in zip(paths, order, strict=True) if place // 10 == group} for group in range(4)]
    assert all(len(group) == 1 for group in groups) and len(set.union(*groups)) == 4
    assert all(len(path) == 2 for path in paths)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 60), st.integers(1, 6), st.integers(2, 5), st.integers(1, 5), st.integers(1, 4), st.integers(0, 3)
)
def test_structured_always_ends_unique_and_prefix_free(count, distinct, clusters, leaf, max_depth, seed):
    generator = np.random.default_rng(seed)
    points = generator.normal(size=(distinct, 3)).astype(np.float32)[generator.integers(0, distinct, size=count)]
    paths = cluster_paths(points, clusters, leaf, max_depth, seed)
    Trie.build(paths, np.arange(count), [str(row) for row in range(count)], None)
    assert len(set(map(tuple, paths))) == count
    assert max(max(path) for path in paths) < max(clusters, leaf)


def test_defect_12_k_means_ends_on_identical_embeddings(make, tiny):
    """More identical embeddings than a leaf holds: cut in order, at once, and still unique."""
    np.save(tiny["embeddings"] / "image_embeddings.npy", np.ones((54, 8), dtype=np.float32))

    def too_long(*arguments):
        raise AssertionError("the clustering does not end")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(20)
    try:
        tables = make("structured")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    assert tables.table["text"].nunique() == 50
    assert tables.table["tokens"].map(len).max() <= 5


def test_defect_12_seeded_and_blind_to_global_random_state(make):
    np.random.seed(1)
    one = make("structured", name="one").fingerprint
    np.random.seed(2)
    assert make("structured", name="two").fingerprint == one


def test_max_depth_is_kept():
    points = np.random.default_rng(0).normal(size=(500, 4)).astype(np.float32)
    flat = cluster_paths(points, clusters=5, leaf_size=1000, max_depth=1, seed=0)
    assert flat == [[row] for row in range(500)]
    deep = cluster_paths(points, clusters=5, leaf_size=5, max_depth=1, seed=0)
    assert len(set(map(tuple, deep))) == 500


def test_the_paths_of_many_images_are_all_different():
    points = np.random.default_rng(0).normal(size=(4000, 64)).astype(np.float32)
    paths = cluster_paths(points, clusters=30, leaf_size=30, max_depth=12, seed=0)
    assert len(set(map(tuple, paths))) == 4000


@pytest.mark.parametrize(
    ("said", "threads"), [("2,1", 2), ("0", None), ("", None), ("all", None), (" 3 ", 3), ("-1", None)]
)
def test_threads_of_the_environment_are_read_as_openmp_does(monkeypatch, said, threads) -> None:
    rows = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert openmp_threads() == threads
    assert len(cluster_paths(rows, 3, 3, 5, seed=0)) == 40
