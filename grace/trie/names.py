"""The names of a trie's images, millions of them in two arrays that can be mapped into memory."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor


class Names:
    """Names as UTF-8 bytes and offsets: millions of them are mapped into memory, and one is decoded when asked for."""

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
