"""Data shared by the searches: beams, finished hypotheses, and the rule that scores a token.

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
    """Prefixes that the model has read or will read; an empty place has the score -inf, node 0 and arbitrary tokens."""

    scores: Tensor  # f32 [B, K], nats
    nodes: Tensor  # int64 [B, K]
    tokens: Tensor  # int64 [B, K, D]: tokens so far; -1: none yet


@dataclass(frozen=True)
class Hypotheses:
    """Finished hypotheses, best first: nodes where identifiers end (-1: none), scores in nats, tokens (-1: padding)."""

    nodes: Tensor  # int64 [B, P]
    scores: Tensor  # f32 [B, P]
    tokens: Tensor  # int64 [B, P, D], without the end token
    bound: Tensor  # f32 [B]: no omitted identifier scores more; -inf: none was omitted
    model_rows: int = 0  # rows of prefixes that the model has read, prompts included


@dataclass(frozen=True)
class Rule:
    """How a token is scored: the softmax over `full`, `children` or `level`, and for the last the alphabets of the levels."""

    normalisation: str = "full"
    levels: list[list[int]] | None = None

    def base(self, logits: Tensor, depth: int, valid: Tensor) -> Tensor:
        """The normaliser to subtract from a logit, f32 [...], for logits [..., V] at `depth`; `valid`: the children's logits."""
        if self.normalisation == "full":
            return log_normaliser(logits)
        if self.normalisation == "children":
            return valid.logsumexp(-1)
        if self.levels is None:
            raise GraceError("the normalisation level needs the alphabets of the levels")
        return logits[..., torch.tensor(self.levels[depth], device=logits.device)].logsumexp(-1)


FULL = Rule()

AT_ONCE = 2**19
"""Logits whose log-sum-exp a CPU computes at once: 2 MB stay in its cache."""


def log_normaliser(logits: Tensor) -> Tensor:
    """Log-sum-exp of the last dimension, f32 [...].

    On the CPU a few rows at a time: torch writes differences and exponentials to a buffer as large as the logits, and
    allocating it takes longer than the arithmetic. The result is bit-identical.
    """
    if logits.device.type != "cpu" or logits.numel() <= AT_ONCE:
        return logits.logsumexp(-1)
    rows = logits.reshape(-1, logits.shape[-1])
    parts = rows.split(max(1, AT_ONCE // logits.shape[-1]))
    return torch.cat([part.logsumexp(-1) for part in parts]).view(logits.shape[:-1])


def roots(batch: int, depth: int, device: torch.device) -> Beams:
    """One beam per query: the prompt alone."""
    return Beams(
        torch.zeros(batch, 1, device=device),
        torch.zeros(batch, 1, dtype=torch.long, device=device),
        torch.full((batch, 1, depth), -1, dtype=torch.long, device=device),
    )


def empty_pool(batch: int, places: int, depth: int, device: torch.device) -> Hypotheses:
    """A pool without hypotheses."""
    return Hypotheses(
        torch.full((batch, places), -1, dtype=torch.long, device=device),
        torch.full((batch, places), MINUS, device=device),
        torch.full((batch, places, depth), -1, dtype=torch.long, device=device),
        torch.full((batch,), MINUS, device=device),
    )


def branch(cache: DynamicCache) -> DynamicCache:
    """A cache that grows independently of `cache` but shares its tensors, which growth replaces and never modifies."""
    other = copy.copy(cache)
    other.layers = [copy.copy(layer) for layer in cache.layers]
    return other
