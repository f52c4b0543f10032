"""What the searches pass around: beams, finished hypotheses, pruned prefixes, and the rule that scores a token.

Legend: B queries, K beams, F children, V vocabulary, P places of the pool of finished hypotheses, D depth of the trie.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from grace.system.errors import GraceError

MINUS = float("-inf")


@dataclass(frozen=True)
class Beams:
    """Prefixes that are read or to be read; an empty place has the score -inf, node 0 and any tokens."""

    scores: Tensor  # f32 [B, K], nats
    nodes: Tensor  # int64 [B, K]
    tokens: Tensor  # int64 [B, K, D]: fed to the model so far; -1: none yet


@dataclass(frozen=True)
class Hypotheses:
    """Finished hypotheses, best first: nodes where identifiers end (-1: none), scores in nats, tokens (-1: padding)."""

    nodes: Tensor  # int64 [B, P]
    scores: Tensor  # f32 [B, P]
    tokens: Tensor  # int64 [B, P, D], without the end token
    bound: Tensor  # f32 [B]: no identifier that was left out scores more; -inf: none was left out
    model_rows: int = 0  # rows of prefixes that the model has read, prompts included


@dataclass(frozen=True)
class Rule:
    """How a token is scored: the softmax over `full`, `children` or `level`, and the alphabets of the levels for that."""

    normalisation: str = "full"
    levels: list[list[int]] | None = None

    def base(self, logits: Tensor, depth: int, valid: Tensor) -> Tensor:
        """What is taken off a logit, f32 [...], for logits [..., V] at `depth`; `valid` are those of the children."""
        if self.normalisation == "full":
            return log_normaliser(logits)
        if self.normalisation == "children":
            return valid.logsumexp(-1)
        if self.levels is None:
            raise GraceError("the normalisation level needs the alphabets of the levels")
        return logits[..., torch.tensor(self.levels[depth], device=logits.device)].logsumexp(-1)


FULL = Rule()

AT_ONCE = 2**19
"""Logits whose log-sum-exp a processor takes at once: two megabytes stay in its cache."""


def log_normaliser(logits: Tensor) -> Tensor:
    """Log-sum-exp of the last dimension, f32 [...].

    On a processor some rows at a time: torch's writes its differences and exponentials to memory as large as the logits,
    and finding that memory takes longer than the arithmetic. The result is the same to the bit.
    """
    if logits.device.type != "cpu" or logits.numel() <= AT_ONCE:
        return logits.logsumexp(-1)
    rows = logits.reshape(-1, logits.shape[-1])
    parts = rows.split(max(1, AT_ONCE // logits.shape[-1]))
    return torch.cat([part.logsumexp(-1) for part in parts]).view(logits.shape[:-1])


def roots(batch: int, depth: int, device: torch.device) -> Beams:
    """One beam a query: the prompt alone."""
    return Beams(
        torch.zeros(batch, 1, device=device),
        torch.zeros(batch, 1, dtype=torch.long, device=device),
        torch.full((batch, 1, depth), -1, dtype=torch.long, device=device),
    )


def empty_pool(batch: int, places: int, depth: int, device: torch.device) -> Hypotheses:
    """A pool of no hypotheses."""
    return Hypotheses(
        torch.full((batch, places), -1, dtype=torch.long, device=device),
        torch.full((batch, places), MINUS, device=device),
        torch.full((batch, places, depth), -1, dtype=torch.long, device=device),
        torch.full((batch,), MINUS, device=device),
    )


def branch(cache: DynamicCache) -> DynamicCache:
    """A cache that grows apart from `cache` but shares its tensors: growth replaces tensors, it never writes into them."""
    other = copy.copy(cache)
    other.layers = [copy.copy(layer) for layer in cache.layers]
    return other
