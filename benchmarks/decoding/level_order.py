"""The trie of this project (`grace.identifiers.tree`) with the same interface as its competitors."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from grace.identifiers.tree import Trie
from grace.identifiers.tree.file import open_trie, save_trie
from grace.identifiers.tree.names import Names

END = 2**20
"""End token, which no set contains. It is implicit in the trie."""


class LevelOrder:
    """Level-order arrays, including the leaf map (one image per identifier) and the images' names."""

    name = "level order"

    def __init__(self, tree: Trie) -> None:
        self.tree = tree

    @classmethod
    def build(cls, tokens_SL: np.ndarray, end: int = END) -> tuple[LevelOrder, float]:
        """The trie, and the seconds to build it from arrays, including the leaf map and all checks."""
        flat, lengths = tokens_SL.reshape(-1), np.full(len(tokens_SL), tokens_SL.shape[1])
        images, names = np.arange(len(tokens_SL)), Names.of(map(str, range(len(tokens_SL))))
        start = time.perf_counter()
        tree = Trie.from_arrays(flat, lengths, images, names, end)
        return cls(tree), time.perf_counter() - start

    def allowed(self, prefix: list[int]) -> list[int]:
        """Tokens that may follow `prefix`; empty if it is complete, or not in the trie."""
        node = self.tree.walk(prefix)
        return [] if node is None else self.tree.children(node)[0].tolist()

    def bytes(self) -> int:
        """Bytes of the structure: labels, first children, and, if lengths differ, which nodes are leaves."""
        tree = self.tree
        return sum(array.numel() * array.element_size() for array in (tree.labels, tree.first, tree.leaf_nodes))

    def leaf_map_bytes(self) -> int:
        """Bytes of the map from leaves to image rows, which the competitors do not have."""
        return sum(a.numel() * a.element_size() for a in (self.tree.leaf_first, self.tree.leaf_images))

    def save(self, path: Path) -> None:
        save_trie(self.tree, path, fingerprint="benchmark")

    @classmethod
    def load(cls, path: Path) -> LevelOrder:
        """Memory-map the file; data is read on access."""
        return cls(open_trie(path, verify=False))

    @classmethod
    def load_verified(cls, path: Path) -> LevelOrder:
        """Memory-map the file, hash its content and check its structure."""
        return cls(open_trie(path, verify=True))
