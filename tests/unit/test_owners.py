"""Images by identifier, from arrays, against a dictionary."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from grace.identifiers import owners
from grace.identifiers.owners import Owners

PAIRS = st.lists(
    st.tuples(st.lists(st.integers(0, 2**31 - 1) | st.integers(0, 2), min_size=1, max_size=6), st.integers(0, 5)),
    min_size=1, max_size=30,
)  # fmt: skip


def check(pairs: list[tuple[list[int], int]]) -> None:
    table = pd.DataFrame({"tokens": [tokens for tokens, _ in pairs], "image_id": [f"im{image}" for _, image in pairs]})
    wanted, found = defaultdict(set), Owners(table)
    for tokens, image in pairs:
        wanted[tuple(tokens)].add(f"im{image}")
    for tokens, images in wanted.items():
        assert found[tokens] == images
        for other in ([*tokens, 0], [*tokens[:-1], tokens[-1] + 1], tokens[:-1]):
            assert found[other] == wanted.get(tuple(other), set())


@settings(max_examples=100, deadline=None)
@given(PAIRS)
def test_owners_equal_a_dictionary(pairs) -> None:
    check(pairs)


@settings(max_examples=30, deadline=None)
@given(PAIRS)
def test_collisions_of_the_hash_change_nothing(pairs) -> None:
    plain = owners._hashes
    owners._hashes = lambda *given: plain(*given) % np.uint64(2)
    try:
        check(pairs)
    finally:
        owners._hashes = plain
