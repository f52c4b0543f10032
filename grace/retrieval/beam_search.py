"""Trie-constrained beam search over Flamingo with a KV cache.

The score of an identifier is the sum of its tokens' log-probabilities, its end token included, with no length penalty. With
`full` (the default) a token's probability is that of the full-vocabulary softmax, not renormalised over what the trie
allows; `children` and `level` renormalise, by name only.

Exactness: scores only fall along a path, so the score of a pruned prefix bounds every identifier below it. `bound` is the
best score that a leaf which was not scored can have; what scores above it is exact, order included. `best_first` goes on
from the pruned prefixes until nothing can change the answer.

Beams carry node ids of the trie. The prompt is read once a query; the top-k runs over children, not over the vocabulary.
Fewer valid hypotheses than beams is normal: an empty place has the score -inf and node 0.

Legend: B queries, K beams, F children, V vocabulary, P places of the pool of finished hypotheses.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

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
    bound: Tensor  # f32 [B]: no leaf below a pruned prefix scores more; -inf: nothing was pruned
    model_rows: int = 0  # rows of prefixes that the model has read, prompts included


@dataclass(frozen=True)
class Prefixes:
    """Prefixes that were pruned, in no order; an empty place has the score -inf."""

    scores: Tensor  # f32 [B, C]
    nodes: Tensor  # int64 [B, C]
    tokens: Tensor  # int64 [B, C, depth]; -1: padding
    lengths: Tensor  # int64 [B, C]


@torch.inference_mode()
def beam_search(
    model, prompts_BL: Tensor, media_1NC: Tensor, trie: Trie, beams: int, places: int,
    normalisation: str = "full", levels: list[list[int]] | None = None,
) -> Hypotheses:  # fmt: skip
    """The best `places` leaves found with `beams` beams for prompts of one length, int64 [B, L].

    `media_1NC` is the resampled pad image, [1, 1, N, C]; `trie` is on the model's device. `levels` are the alphabets of
    the levels, the end token's among them (for `level` only).
    """
    logits, cache = read_prompts(model, prompts_BL, media_1NC)
    return descend(model, logits, cache, media_1NC, trie, beams, places, normalisation, levels)[0]


def read_prompts(model, prompts_BL: Tensor, media_1NC: Tensor) -> tuple[Tensor, DynamicCache]:
    """Logits after the prompts, f32 [B, V], and the cache of B rows."""
    media = media_1NC.expand(len(prompts_BL), -1, -1, -1)
    hidden, cache = model.hidden_states(prompts_BL, media, past_key_values=DynamicCache())
    return model.head(hidden[:, -1]).float(), cache


def descend(
    model, logits_BV: Tensor, cache: DynamicCache, media_1NC: Tensor, trie: Trie, beams: int, places: int,
    normalisation: str, levels: list[list[int]] | None, keep: bool = False,
) -> tuple[Hypotheses, Prefixes | None]:  # fmt: skip
    """Beam search from prompts that were read; with `keep` every pruned prefix too. Grows `cache` in place."""
    batch, device = len(logits_BV), logits_BV.device
    logits = logits_BV[:, None]
    nodes = torch.zeros(batch, 1, dtype=torch.long, device=device)
    scores = torch.zeros(batch, 1, device=device)
    tokens = torch.full((batch, 1, trie.depth), -1, dtype=torch.long, device=device)
    pool = empty_pool(batch, places, trie.depth, device)
    bound = torch.full((batch,), MINUS, device=device)
    pruned, rows = [], batch
    for depth in range(trie.depth):
        candidates, children, labels = expand(trie, nodes, scores, logits, depth, normalisation, levels)
        leaves = trie.leaf[children].long()
        history = tokens[:, :, None].expand(-1, -1, children.shape[2], -1).clone()
        history[..., depth] = labels
        pool = finish(pool, candidates, leaves, history)
        width = min(beams, candidates[0].numel())
        inner = candidates.masked_fill(leaves >= 0, MINUS).flatten(1)
        scores, chosen = inner.topk(width, dim=1)
        no_more = bool((scores[:, 0] <= pool.scores[:, -1]).all())  # no beam can still enter the pool: scores only fall
        left = inner if no_more else inner.scatter(1, chosen, MINUS)
        bound = torch.maximum(bound, left.amax(1))
        if keep:
            pruned.append(_prefixes(left, children, history, depth + 1))
        if no_more:
            break
        parents = chosen // children.shape[2]
        nodes = children.flatten(1).gather(1, chosen).masked_fill(scores == MINUS, 0)
        step = labels.flatten(1).gather(1, chosen)
        tokens = history.flatten(1, 2).gather(1, chosen[..., None].expand(-1, -1, trie.depth))
        selected = torch.arange(batch, device=device)[:, None] * (len(cache_rows(cache)) // batch) + parents
        cache.reorder_cache(selected.flatten())
        media = media_1NC.expand(batch * width, -1, -1, -1)
        hidden, cache = model.hidden_states(step.reshape(-1, 1), media, past_key_values=cache)
        logits = model.head(hidden[:, -1]).float().view(batch, width, -1)
        rows += batch * width
    found = replace(pool, bound=bound, model_rows=rows)
    return found, joined(pruned) if keep else None


def cache_rows(cache: DynamicCache) -> Tensor:
    """A tensor of the cache whose first axis is its rows."""
    return cache.layers[0].keys


def empty_pool(batch: int, places: int, depth: int, device: torch.device) -> Hypotheses:
    """A pool of no hypotheses."""
    return Hypotheses(
        torch.full((batch, places), -1, dtype=torch.long, device=device),
        torch.full((batch, places), MINUS, device=device),
        torch.full((batch, places, depth), -1, dtype=torch.long, device=device),
        torch.full((batch,), MINUS, device=device),
    )


def joined(parts: list[Prefixes]) -> Prefixes:
    """The prefixes of all parts, side by side."""
    return Prefixes(*(torch.cat([getattr(part, field.name) for part in parts], 1) for field in fields(Prefixes)))


def _prefixes(scores_BC: Tensor, children: Tensor, history: Tensor, length: int) -> Prefixes:
    """Prefixes from children [B, K, F] and their tokens [B, K, F, depth]; C = K * F."""
    lengths = torch.full_like(children, length).flatten(1)
    return Prefixes(scores_BC, children.flatten(1), history.flatten(1, 2), lengths)


def expand(
    trie: Trie, nodes: Tensor, scores: Tensor, logits: Tensor, depth: int, normalisation: str,
    levels: list[list[int]] | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Scores, node ids and tokens of all children of nodes at `depth`, [B, K, F]; places that are none score -inf."""
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
        base = logits[..., torch.tensor(levels[depth], device=logits.device)].logsumexp(-1)
    grown = scores[..., None] + picked - base[..., None]
    return grown.masked_fill(~real, MINUS), children, labels


def finish(pool: Hypotheses, candidates: Tensor, leaves: Tensor, history: Tensor) -> Hypotheses:
    """Let the candidates that are leaves compete for the places of the pool; [B, K, F], history [B, K, F, depth]."""
    done = candidates.masked_fill(leaves < 0, MINUS).flatten(1)
    scores = torch.cat([pool.scores, done], 1)
    best, order = scores.topk(pool.scores.shape[1], dim=1)
    numbers = torch.cat([pool.leaves, leaves.flatten(1)], 1).gather(1, order).masked_fill(best == MINUS, -1)
    tokens = torch.cat([pool.tokens, history.flatten(1, 2)], 1)
    tokens = tokens.gather(1, order[..., None].expand(-1, -1, tokens.shape[2]))
    return replace(pool, leaves=numbers, scores=best, tokens=tokens)
