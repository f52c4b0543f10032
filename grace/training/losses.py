"""Cross-entropy over a large vocabulary, at the supervised positions only and in chunks of them.

Legend: S supervised positions, H width, V vocabulary or classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


def cross_entropy_sum(head: Callable[[Tensor], Tensor], hidden_SH: Tensor, labels_S: Tensor, chunk: int = 0) -> Tensor:
    """Sum of the cross-entropies of `head(hidden)` in nats, fp32, a scalar; the same value and gradients for any `chunk`.

    With a `chunk` of positions fewer than S, no more than [chunk, V] logits exist at a time: each chunk's are made again in
    the backward pass (as in Liger Kernel and Cut Cross-Entropy, arXiv 2411.09009, without a kernel of its own). 0: all at once.
    """
    if not chunk or len(hidden_SH) <= chunk:
        return _sum(head, hidden_SH, labels_S)
    parts = [
        checkpoint(_sum, head, hidden, labels, use_reentrant=False)
        for hidden, labels in zip(hidden_SH.split(chunk), labels_S.split(chunk), strict=True)
    ]
    return torch.stack(parts).sum()


def _sum(head: Callable[[Tensor], Tensor], hidden_SH: Tensor, labels_S: Tensor) -> Tensor:
    return F.cross_entropy(head(hidden_SH).float(), labels_S, reduction="sum")
