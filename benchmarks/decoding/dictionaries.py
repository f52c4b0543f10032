"""Nested dictionaries and pickle, as in the published code; used only as a competitor in the benchmark.

Only data written by the same process, in a temporary folder, is unpickled.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

ROWS = 100_000
"""Rows converted to lists at a time: the lists are input, so this is not timed, and not all must fit in memory."""


class Dictionaries:
    """Token -> dictionary of allowed continuations. Identifiers come without an end token, which saves a level."""

    name = "dictionaries"

    def __init__(self, root: dict) -> None:
        self.root = root

    @classmethod
    def build(cls, tokens_SL: np.ndarray) -> tuple[Dictionaries, float]:
        """The trie, and the seconds to build it from lists of ints."""
        return cls._timed(tokens_SL, _add_all)

    @classmethod
    def build_as_published(cls, tokens_SL: np.ndarray) -> tuple[Dictionaries, float]:
        """The same by recursion on slices, as published by GENRE and GRACE."""
        return cls._timed(tokens_SL, _add_all_as_published)

    @classmethod
    def _timed(
        cls, tokens_SL: np.ndarray, add_all: Callable[[list[list[int]], dict], None]
    ) -> tuple[Dictionaries, float]:
        root: dict = {}
        seconds = 0.0
        for first in range(0, len(tokens_SL), ROWS):
            sequences = tokens_SL[first : first + ROWS].tolist()
            start = time.perf_counter()
            add_all(sequences, root)
            seconds += time.perf_counter() - start
        return cls(root), seconds

    def allowed(self, prefix: list[int]) -> list[int]:
        """Tokens that may follow `prefix`; empty if it is complete, or not in the trie."""
        node = self.root
        for token in prefix:
            node = node.get(token)
            if node is None:
                return []
        return list(node)

    def save(self, path: Path) -> None:
        with open(path, "wb") as file:
            pickle.dump(self.root, file, protocol=pickle.HIGHEST_PROTOCOL)

    @classmethod
    def load(cls, path: Path) -> Dictionaries:
        with open(path, "rb") as file:
            return cls(pickle.load(file))  # of our own, just written


def _add_all(sequences: list[list[int]], root: dict) -> None:
    for sequence in sequences:
        node = root
        for token in sequence:
            below = node.get(token)
            if below is None:
                below = node[token] = {}
            node = below


def _add_all_as_published(sequences: list[list[int]], root: dict) -> None:
    for sequence in sequences:
        _add(sequence, root)


def _add(sequence: list[int], node: dict) -> None:
    if sequence:
        if sequence[0] not in node:
            node[sequence[0]] = {}
        _add(sequence[1:], node[sequence[0]])
