"""Track the live bytes of tensors while code runs: allocations, frees, and the peak.

A dispatch mode sees every tensor that an operation creates, on any device, real or fake (with a shape but no memory). Each
storage is counted once, views are not; a storage is no longer counted once its last tensor is gone. Temporary memory inside
an operation and an allocator's rounding are not seen.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of storages created while the mode is active and still alive.

    `live` and `peak` are bytes. Existing storages count only if they are passed to `add`. With `padded` True, the question
    whether a mask has no padding, which a fake tensor cannot answer, is answered with no.
    """

    def __init__(self, padded: bool = False) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.padded = padded
        self._seen: dict[int, Any] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if self.padded and function is torch.ops.aten._local_scalar_dense.default:
            return False
        out = function(*args, **(kwargs or {}))
        for value in tree_leaves(out):
            if isinstance(value, Tensor):
                self.add(value)
        return out

    def add(self, tensor: Tensor) -> None:
        """Count the storage of `tensor` from now on, once."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._seen:
            return
        size = storage.nbytes()
        self._seen[key] = weakref.finalize(storage, self._freed, key, size)
        self.live += size
        self.peak = max(self.peak, self.live)

    def reset_peak(self) -> None:
        self.peak = self.live

    def _freed(self, key: int, size: int) -> None:
        del self._seen[key]
        self.live -= size
