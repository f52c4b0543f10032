"""Look-ups in the trie against a dictionary, over short and long identifiers of small and large alphabets, in any order."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grace.identifiers.tree import Trie
from grace.identifiers.tree.build import _pack
from grace.identifiers.tree.file import structure_problem

END = 50_000


def check(sequences: list[tuple[int, ...]], images: list[int], end: int | None) -> Trie:
    """Every sequence leads to its images and no others, by `walk` and by `find`; sequences that are not there lead nowhere."""
    names = [f"image{row}" for row in range(max(images) + 1)]
    tree = Trie.build(sequences, images, names, end)
    wanted = defaultdict(set)
    for sequence, image in zip(sequences, images, strict=True):
        wanted[sequence].add(image)
    assert structure_problem(tree) is None
    assert tree.leaves == len(wanted)
    absent = {(*sequence[:-1], sequence[-1] + 1) for sequence in sequences} - set(wanted)
    asked = [*wanted, *absent]
    padded = torch.full((len(asked), tree.depth + 1), -1)
    for row, sequence in enumerate(asked):
        padded[row, : len(sequence)] = torch.tensor(sequence)
    nodes = tree.find(padded)
    for sequence, node in zip(asked, nodes.tolist(), strict=True):
        found = [] if node < 0 else tree.images_at(node)
        assert found == tree.images_of(sequence) == [names[image] for image in sorted(wanted.get(sequence, []))]
    for depth in range(tree.depth + 1):  # leaves at or below the nodes of a depth
        heads = Counter(sequence[:depth] for sequence in wanted if len(sequence) >= depth)
        assert tree.most_leaves[depth].tolist() == sorted(heads.values(), reverse=True)
    order = sorted(wanted, key=lambda sequence: min(names[image] for image in wanted[sequence]))
    ranks = [int(tree.leaf_order(torch.tensor(tree.walk(sequence)))) for sequence in order]
    assert len(set(ranks)) == len(ranks)
    firsts = [min(names[image] for image in wanted[sequence]) for sequence in order]
    assert sorted(firsts) == [name for _, name in sorted(zip(ranks, firsts, strict=True))]
    return tree


@settings(max_examples=120, deadline=None)
@given(
    length=st.integers(1, 20), alphabet=st.sampled_from([2, 10, 32, 256, 5_000, END]), number=st.integers(1, 60),
    seed=st.integers(0, 2**32 - 1), one_length=st.booleans(), repeats=st.integers(0, 5), in_order=st.booleans(),
    end=st.sampled_from([END, None]),
)  # fmt: skip
def test_every_identifier_leads_to_its_images(length, alphabet, number, seed, one_length, repeats, in_order, end):
    rng = np.random.default_rng(seed)
    one_length = one_length or end is None  # without an end token no identifier may begin another
    lengths = [length if one_length else int(rng.integers(1, length + 1)) for _ in range(number)]
    sequences = [tuple(map(int, rng.integers(0, alphabet, size=size))) for size in lengths]
    sequences += [sequences[int(row)] for row in rng.integers(0, number, size=repeats)]
    sequences = sorted(sequences) if in_order else sequences
    check(sequences, rng.permutation(len(sequences)).tolist(), end)


@pytest.mark.parametrize(
    ("length", "alphabet", "number", "fits"),
    [
        (8, 100, 1_000, True),
        (8, 256, 1_000, False),
        (12, 32, 1_000, False),
        (16, 10, 1_000, False),
        (5, 5_000, 9_000, False),
    ],
)
def test_unsorted_identifiers_whose_keys_need_more_than_63_bits(length: int, alphabet: int, number: int, fits: bool):
    rng = np.random.default_rng(0)
    sequences = [tuple(map(int, row)) for row in rng.integers(0, alphabet, size=(number, length))]
    assert (_pack(np.array(sequences).reshape(-1), np.full(number, length)) is not None) == fits
    check(sequences, rng.permutation(number).tolist(), END)
