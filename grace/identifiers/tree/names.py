"""The names of a trie's images, stored in two arrays that can be memory-mapped."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor


class Names:
    """Names as UTF-8 bytes and offsets: millions can be memory-mapped, and each is decoded on access."""

    def __init__(self, encoded: Tensor, first: Tensor) -> None:
        """`encoded` uint8 [bytes]; name n is encoded[first[n] .. first[n + 1]], first int64 [names + 1]."""
        self.encoded, self.first = encoded, first

    @classmethod
    def of(cls, names: Iterable[str]) -> Names:
        parts = [name.encode("utf-8") for name in names]
        first = np.cumsum([0, *map(len, parts)])
        return cls(torch.from_numpy(np.frombuffer(b"".join(parts), dtype=np.uint8).copy()), torch.from_numpy(first))

    def __len__(self) -> int:
        return len(self.first) - 1

    def __getitem__(self, row: int) -> str:
        if not 0 <= row < len(self):
            raise IndexError(row)
        begin, end = self.first[row : row + 2].tolist()
        return self.encoded[begin:end].numpy().tobytes().decode("utf-8")

    def ranks(self) -> np.ndarray:
        """The rank of every name in sorted order, int64 [names]. UTF-8 bytes sort like the text."""
        content, bounds = self.encoded.cpu().numpy().tobytes(), self.first.tolist()
        names = [content[begin:end] for begin, end in pairwise(bounds)]
        ranks = np.arange(len(names))
        if any(one > other for one, other in pairwise(names)):
            ranks[sorted(range(len(names)), key=names.__getitem__)] = np.arange(len(names))
        return ranks
