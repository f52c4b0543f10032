"""Look up the images that an identifier belongs to; the results of a search are checked against this.

Built from a few arrays instead of a dictionary of tuples, which for a million identifiers takes seconds and hundreds of
megabytes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from grace.identifiers.base import flatten

FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplication is invertible


class Owners:
    """Images by identifier. Identifiers are found by hash and then compared token by token, so collisions are harmless."""

    def __init__(self, rows: pd.DataFrame) -> None:
        """`rows` of an identifier table: columns tokens and image_id."""
        self.flat, self.lengths = flatten(rows["tokens"])
        self.starts = np.cumsum(self.lengths) - self.lengths
        self.images = rows["image_id"].to_numpy(dtype=object)
        hashes = _hashes(self.flat, self.starts, self.lengths)
        self.order = np.argsort(hashes, kind="stable")
        self.sorted = hashes[self.order]

    def __getitem__(self, identifier: Sequence[int]) -> set[str]:
        """Ids of the images that have this identifier (token ids, no end token); empty if there are none."""
        tokens = np.asarray(identifier, dtype=np.int64)
        if not len(tokens):
            return set()
        number = _hashes(tokens, np.zeros(1, dtype=np.int64), np.array([len(tokens)]))[0]
        begin, stop = np.searchsorted(self.sorted, number), np.searchsorted(self.sorted, number, side="right")
        return {self.images[row] for row in self.order[begin:stop] if np.array_equal(self._tokens(row), tokens)}

    def _tokens(self, row: int) -> np.ndarray:
        return self.flat[self.starts[row] : self.starts[row] + self.lengths[row]]


def _hashes(flat: np.ndarray, starts_S: np.ndarray, lengths_S: np.ndarray) -> np.ndarray:
    """One hash per sequence, uint64 [S]: its tokens as the coefficients of a polynomial, modulo 2 ** 64."""
    hashes = lengths_S.astype(np.uint64)
    rows = np.arange(len(lengths_S))
    for place in range(int(lengths_S.max(initial=0))):
        rows = rows[lengths_S[rows] > place]
        hashes[rows] = hashes[rows] * FACTOR + flat[starts_S[rows] + place].astype(np.uint64)
    return hashes
