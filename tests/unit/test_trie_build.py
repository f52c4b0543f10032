"""The two ways to number the nodes of a trie are each other's oracle."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from grace.identifiers.base import flatten
from grace.identifiers.tree.build import Nodes, _by_levels, _pack, number_nodes


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=6), min_size=1, max_size=60), st.booleans())
def test_one_sort_and_level_by_level_number_alike(sequences, sort):
    """The two ways of construction are each other's oracle; here also for sets that are not prefix-free."""
    sequences = sorted(sequences) if sort else sequences
    flat, lengths = flatten(sequences)
    assert _pack(flat, lengths) is not None
    quick, slow = number_nodes(flat, lengths), _by_levels(flat, lengths)
    assert alike(quick, slow)
    rows = [quick.sequence_at(row) for row in range(len(lengths))]
    assert quick.rows_sorted and [sequences[row] for row in rows] == sorted(sequences)
    assert rows == quick.by_row(np.arange(len(lengths))).tolist()


def alike(quick: Nodes, slow: Nodes) -> bool:
    """The same nodes, and every sequence ends in the same one."""
    ends = np.empty_like(quick.ends)
    ends[quick.by_row(np.arange(len(ends)))] = quick.ends
    same = [np.array_equal(getattr(quick, name), getattr(slow, name)) for name in ("labels", "first", "levels")]
    return all(same) and np.array_equal(ends, slow.ends)


def test_alphabets_that_do_not_fit_a_key_are_numbered_level_by_level():
    rng = np.random.default_rng(0)
    flat, lengths = rng.integers(0, 2**31 - 1, 700 * 9), np.full(700, 9)
    assert _pack(flat, lengths) is None
    nodes = number_nodes(flat, lengths)
    assert nodes.levels[-1] == len(nodes.labels) and len(np.unique(nodes.ends)) == 700


def test_keys_that_leave_no_room_for_a_row_number_are_sorted_alike():
    rng = np.random.default_rng(1)
    lengths = rng.integers(9, 13, 300)
    flat = rng.integers(0, 28, lengths.sum())
    _, bits, _ = _pack(flat, lengths)
    assert 63 - 9 < sum(bits) <= 63
    quick, slow = number_nodes(flat, lengths), _by_levels(flat, lengths)
    assert alike(quick, slow)
