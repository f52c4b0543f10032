"""Trie-constrained beam search over Flamingo with a KV cache.

The score of an identifier is the sum of its tokens' log-probabilities, its end token included, with no length penalty. With
`full` (the default) a token's probability is that of the full-vocabulary softmax, not renormalised over what the trie
allows; `children` and `level` renormalise, by name only.

Beams carry node ids of the trie. The prompt is read once a query; the top-k runs over children, not over the vocabulary.
Fewer valid hypotheses than beams is normal: an empty place has the score -inf and node 0.

Legend: B queries, K beams, F children, V vocabulary, P places of the pool of finished hypotheses.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from grace.trie import Trie

MINUS = float("-inf")


@dataclass(frozen=True)
class Hypotheses:
    """Finished hypotheses, best first: leaf numbers (-1: none), scores in nats, tokens (-1: padding)."""

    leaves: Tensor  # int64 [B, P]
    scores: Tensor  # f32 [B, P]
    tokens: Tensor  # int64 [B, P, depth]


@torch.inference_mode()
def beam_search(
    model, prompts_BL: Tensor, media_1NC: Tensor, trie: Trie, beams: int, places: int,
    normalisation: str = "full", levels: list[list[int]] | None = None,
) -> Hypotheses:  # fmt: skip
    """The best `places` leaves found with `beams` beams for prompts of one length, int64 [B, L].

    `media_1NC` is the resampled pad image, [1, 1, N, C]; `trie` is on the model's device. `levels` are the alphabets of
    the levels (for `level` only; deeper levels have the end token alone).
    """
    batch, device = len(prompts_BL), prompts_BL.device
    cache = DynamicCache()
    media = media_1NC.expand(batch, -1, -1, -1)
    hidden, cache = model.hidden_states(prompts_BL, media, past_key_values=cache)
    logits = model.head(hidden[:, -1]).float()[:, None]  # [B, 1, V]
    nodes = torch.zeros(batch, 1, dtype=torch.long, device=device)
    scores = torch.zeros(batch, 1, device=device)
    tokens = torch.full((batch, 1, trie.depth), -1, dtype=torch.long, device=device)
    pool = Hypotheses(
        torch.full((batch, places), -1, dtype=torch.long, device=device),
        torch.full((batch, places), MINUS, device=device),
        torch.full((batch, places, trie.depth), -1, dtype=torch.long, device=device),
    )
    for depth in range(trie.depth):
        alphabet = levels[depth] if levels and depth < len(levels) else None
        candidates, children, labels = _expand(trie, nodes, scores, logits, depth, normalisation, alphabet)
        leaves = trie.leaf[children].long()
        history = tokens[:, :, None].expand(-1, -1, children.shape[2], -1).clone()
        history[..., depth] = labels
        pool = _finish(pool, candidates, leaves, history)
        width = min(beams, candidates[0].numel())
        inner = candidates.masked_fill(leaves >= 0, MINUS).flatten(1)
        scores, chosen = inner.topk(width, dim=1)
        if bool((scores[:, 0] <= pool.scores[:, -1]).all()):
            break  # no beam can still enter the pool: scores only fall
        parents = chosen // children.shape[2]
        nodes = children.flatten(1).gather(1, chosen).masked_fill(scores == MINUS, 0)
        step = labels.flatten(1).gather(1, chosen)
        tokens = history.flatten(1, 2).gather(1, chosen[..., None].expand(-1, -1, trie.depth))
        rows = torch.arange(batch, device=device)[:, None] * (len(cache_rows(cache)) // batch) + parents
        cache.reorder_cache(rows.flatten())
        media = media_1NC.expand(batch * width, -1, -1, -1)
        hidden, cache = model.hidden_states(step.reshape(-1, 1), media, past_key_values=cache)
        logits = model.head(hidden[:, -1]).float().view(batch, width, -1)
    return pool


def cache_rows(cache: DynamicCache) -> Tensor:
    """A tensor of the cache whose first axis is its rows."""
    return cache.layers[0].keys


def _expand(
    trie: Trie,
    nodes: Tensor,
    scores: Tensor,
    logits: Tensor,
    depth: int,
    normalisation: str,
    alphabet: list[int] | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Scores, node ids and tokens of all children of all beams, [B, K, F]; places that are none have the score -inf."""
    first = trie.first[nodes].long()
    number = trie.first[nodes + 1].long() - first
    offsets = torch.arange(trie.level_fan_out[depth], device=nodes.device)
    real = (offsets < number[..., None]) & (scores > MINUS)[..., None]
    children = (first[..., None] + offsets).masked_fill(~real, 0)
    labels = trie.labels[children].long().clamp(min=0)
    picked = logits.gather(2, labels.flatten(2)).view_as(labels)
    if normalisation == "full":
        base = logits.logsumexp(-1)
    elif normalisation == "children":
        base = picked.masked_fill(~real, MINUS).logsumexp(-1)
    else:
        whole = alphabet if alphabet is not None else labels[real].unique().tolist()
        base = logits[..., torch.tensor(whole, device=logits.device)].logsumexp(-1)
    grown = scores[..., None] + picked - base[..., None]
    return grown.masked_fill(~real, MINUS), children, labels


def _finish(pool: Hypotheses, candidates: Tensor, leaves: Tensor, history: Tensor) -> Hypotheses:
    """Let the candidates that are leaves compete for the places of the pool."""
    done = candidates.masked_fill(leaves < 0, MINUS).flatten(1)
    scores = torch.cat([pool.scores, done], 1)
    best, order = scores.topk(pool.scores.shape[1], dim=1)
    numbers = torch.cat([pool.leaves, leaves.flatten(1)], 1).gather(1, order).masked_fill(best == MINUS, -1)
    tokens = torch.cat([pool.tokens, history.flatten(1, 2)], 1)
    return Hypotheses(numbers, best, tokens.gather(1, order[..., None].expand(-1, -1, tokens.shape[2])))
