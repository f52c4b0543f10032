"""Cross-entropy over a large vocabulary, at the supervised positions only and in chunks of them.

Legend: S supervised positions, H width, V vocabulary or classes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint


def cross_entropy_sum(
    head: Callable[[Tensor], Tensor], hidden_SH: Tensor, labels_S: Tensor, chunk: int = 0,
    soft: tuple[Tensor, Tensor] | None = None,
) -> Tensor:  # fmt: skip
    """Sum of the cross-entropies of `head(hidden)` in nats, fp32, a scalar; the same value and gradients for any `chunk`.

    With a `chunk` of positions fewer than S, no more than [chunk, V] logits exist at a time: each chunk's are made again in
    the backward pass (as in Liger Kernel and Cut Cross-Entropy, arXiv 2411.09009, without a kernel of its own). 0: all at once.

    `soft` (tokens int64 [S, K], weights f32 [S, K]) are more labels of every position: the cross-entropy of each counts
    as much as its weight.
    """
    if not chunk or len(hidden_SH) <= chunk:
        return _sum(head, hidden_SH, labels_S, *(soft or ()))
    pieces = [tensor.split(chunk) for tensor in (hidden_SH, labels_S, *(soft or ()))]
    parts = [checkpoint(_sum, head, *piece, use_reentrant=False) for piece in zip(*pieces, strict=True)]
    return torch.stack(parts).sum()


def _sum(
    head: Callable[[Tensor], Tensor], hidden_SH: Tensor, labels_S: Tensor, tokens_SK: Tensor | None = None,
    weights_SK: Tensor | None = None,
) -> Tensor:  # fmt: skip
    logits_SV = head(hidden_SH).float()
    loss = F.cross_entropy(logits_SV, labels_S, reduction="sum")
    if tokens_SK is None:
        return loss
    return loss + (weights_SK * (logits_SV.logsumexp(-1, keepdim=True) - logits_SV.gather(1, tokens_SK))).sum()
