"""Exact trie-constrained search: beam search first, then best-first rounds from the prefixes that it pruned.

A prefix scores at least as much as every identifier below it (log-probabilities are not positive), so the answer is exact
as soon as no open prefix scores more than the last leaf kept. Until then every round reads the best open prefixes of
each query once more, from the cache of its prompt, and opens their children: A* with the prefix's score as its bound
(Dijkstra on the tree of log-probabilities).

Legend: B queries, A of them in a round, K prefixes read a query, F children, C open prefixes, l tokens of a prefix.
"""

from __future__ import annotations

import copy
from dataclasses import fields, replace

import torch
from torch import Tensor
from transformers import DynamicCache

from grace.retrieval.beam_search import MINUS, Hypotheses, Prefixes, descend, expand, finish, joined, read_prompts
from grace.trie import Trie


@torch.inference_mode()
def exact_search(
    model, prompts_BL: Tensor, media_1NC: Tensor, trie: Trie, beams: int, places: int,
    normalisation: str = "full", levels: list[list[int]] | None = None,
) -> Hypotheses:  # fmt: skip
    """The best `places` leaves of all, for prompts of one length, int64 [B, L]; arguments as in `beam_search`.

    `beams` is the width of the first descent and of a round; it changes the work, never the answer.
    """
    logits, cache = read_prompts(model, prompts_BL, media_1NC)
    prompts = _branch(cache)
    pool, open_ = descend(model, logits, cache, media_1NC, trie, beams, places, normalisation, levels, keep=True)
    rows = pool.model_rows
    while True:
        scores = open_.scores.masked_fill(open_.scores <= pool.scores[:, -1:], MINUS)  # cannot change the answer
        most = int((scores > MINUS).sum(1).max())
        if not most:
            return replace(pool, bound=scores.new_full((len(scores),), MINUS), model_rows=rows)
        open_ = _best(replace(open_, scores=scores), most)
        now = _best(open_, min(beams, most))
        taken = torch.arange(most, device=scores.device) < now.scores.shape[1]  # `open_` is in order: its first places
        open_ = replace(open_, scores=open_.scores.masked_fill(taken, MINUS))
        for length in now.lengths[now.scores > MINUS].unique().tolist():
            here = replace(now, scores=now.scores.masked_fill(now.lengths != length, MINUS))
            queries = (here.scores > MINUS).any(1).nonzero()[:, 0]
            here = _best(_rows(here, queries), int((here.scores > MINUS).sum(1).max()))
            logits = _read(model, prompts, queries, here.tokens[..., :length], media_1NC)
            rows += logits.shape[0] * logits.shape[1]
            nodes = here.nodes.masked_fill(here.scores == MINUS, 0)
            candidates, children, labels = expand(trie, nodes, here.scores, logits, length, normalisation, levels)
            history = here.tokens[:, :, None].expand(-1, -1, children.shape[2], -1).clone()
            history[..., length] = labels
            leaves = trie.leaf[children].long()
            pool = _finish_some(pool, queries, candidates, leaves, history)
            inner = candidates.masked_fill(leaves >= 0, MINUS).flatten(1)
            lengths = torch.full_like(children, length + 1).flatten(1)
            grown = Prefixes(inner, children.flatten(1), history.flatten(1, 2), lengths)
            open_ = joined([open_, _spread(grown, queries, len(prompts_BL))])


def _best(prefixes: Prefixes, number: int) -> Prefixes:
    """The best `number` prefixes of every query, best first: [B, C] to [B, number]."""
    order = prefixes.scores.topk(number, dim=1).indices
    rows = torch.arange(len(order), device=order.device)[:, None]
    return Prefixes(*(getattr(prefixes, field.name)[rows, order] for field in fields(Prefixes)))


def _rows(prefixes: Prefixes, queries: Tensor) -> Prefixes:
    """The prefixes of the given queries, int64 [A]."""
    return Prefixes(*(getattr(prefixes, field.name)[queries] for field in fields(Prefixes)))


def _spread(prefixes: Prefixes, queries: Tensor, batch: int) -> Prefixes:
    """Prefixes of some queries [A, C] as prefixes of all [B, C]: the others have empty places."""

    def spread(values: Tensor, empty: float) -> Tensor:
        out = values.new_full((batch, *values.shape[1:]), empty)
        out[queries] = values
        return out

    return Prefixes(
        spread(prefixes.scores, MINUS),
        spread(prefixes.nodes, 0),
        spread(prefixes.tokens, -1),
        spread(prefixes.lengths, 0),
    )


def _read(model, prompts: DynamicCache, queries: Tensor, tokens_AKl: Tensor, media_1NC: Tensor) -> Tensor:
    """Logits after the prefixes, f32 [A, K, V], from the cached prompts of the queries."""
    number, width, length = tokens_AKl.shape
    cache = _branch(prompts)
    cache.reorder_cache(queries.repeat_interleave(width))
    media = media_1NC.expand(number * width, -1, -1, -1)
    # An empty place is read as token 0; its score is -inf.
    hidden, _ = model.hidden_states(tokens_AKl.reshape(-1, length).clamp(min=0), media, past_key_values=cache)
    return model.head(hidden[:, -1]).float().view(number, width, -1)


def _branch(cache: DynamicCache) -> DynamicCache:
    """A cache that grows apart from `cache` but shares its tensors: growth replaces tensors, it never writes into them."""
    branch = copy.copy(cache)
    branch.layers = [copy.copy(layer) for layer in cache.layers]
    return branch


def _finish_some(pool: Hypotheses, queries: Tensor, candidates: Tensor, leaves: Tensor, history: Tensor) -> Hypotheses:
    """`finish` for the given queries [A] of the pool of B; candidates [A, K, F]."""
    part = replace(pool, leaves=pool.leaves[queries], scores=pool.scores[queries], tokens=pool.tokens[queries])
    part = finish(part, candidates, leaves, history)
    out = {name: getattr(pool, name).clone() for name in ("leaves", "scores", "tokens")}
    for name, values in out.items():
        values[queries] = getattr(part, name)
    return replace(pool, **out)
