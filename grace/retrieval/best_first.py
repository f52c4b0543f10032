"""Exact trie-constrained search: beam search first, then best-first rounds from the prefixes that it pruned.

A prefix scores at least as much as every identifier below it (log-probabilities are not positive), so the answer is exact
as soon as no open prefix scores more than the last identifier kept. Until then every round reads the best open
prefixes of each query and opens their children: A* with the prefix's score as its bound (Dijkstra on the tree of
log-probabilities). The cache of every prefix that was read is kept, so a round feeds one token a prefix.

Legend: B queries, C open prefixes of a query, R prefixes read together, F children, P places of the pool.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from transformers import DynamicCache

from grace.retrieval.beam_search import descend, expand, finish, read_prompts
from grace.retrieval.hypotheses import FULL, MINUS, Beams, Hypotheses, Left, Rule, branch
from grace.trie import Trie


@dataclass(frozen=True)
class Open:
    """Prefixes that were scored and not read: [B, C]; an empty place has the score -inf."""

    scores: Tensor  # f32
    nodes: Tensor  # int64
    sources: Tensor  # int64: the cache that holds the prefix without its last token
    rows: Tensor  # int64: its row there


@torch.inference_mode()
def exact_search(
    model, prompts_BL: Tensor, media_1NC: Tensor, trie: Trie, beams: int, places: int, rule: Rule = FULL,
    leaves_at_once: int = 0,
) -> Hypotheses:  # fmt: skip
    """The best `places` identifiers of all, for prompts of one length, int64 [B, L]; arguments as in `beam_search`.

    `beams` is the width of the first descent and of a round; it changes the work, never the answer.
    """
    batch = len(prompts_BL)
    logits, cache = read_prompts(model, prompts_BL, media_1NC)
    left: list[Left] = []
    pool = descend(model, logits, cache, media_1NC, trie, beams, places, rule, leaves_at_once, pruned=left)
    caches = [part.cache for part in left]
    open_ = _joined([_opened(part, source) for source, part in enumerate(left)], batch, prompts_BL.device)
    rows = pool.model_rows
    while True:
        alive = open_.scores > pool.scores[:, -1:]  # no other prefix can change the answer
        most = int(alive.sum(1).max()) if alive.numel() else 0
        if not most:
            return replace(pool, bound=torch.full_like(pool.bound, MINUS), model_rows=rows)
        open_ = _best(replace(open_, scores=open_.scores.masked_fill(~alive, MINUS)), most)
        taken = torch.zeros_like(alive[:, :most])
        taken[:, :beams] = open_.scores[:, :beams] > MINUS
        grown = [replace(open_, scores=open_.scores.masked_fill(taken, MINUS))]
        for source in open_.sources[taken].unique().tolist():
            queries, places_C = (taken & (open_.sources == source)).nonzero(as_tuple=True)
            here = Open(*(getattr(open_, field.name)[queries, places_C] for field in fields(Open)))
            pool, opened, cache = _read(model, caches[source], media_1NC, trie, here, queries, pool, rule, len(caches))
            caches.append(cache)
            grown += opened
            rows += len(queries)
        open_ = _joined(grown, batch, prompts_BL.device)


def _read(
    model, cache: DynamicCache, media_1NC: Tensor, trie: Trie, here: Open, queries_R: Tensor, pool: Hypotheses, rule: Rule,
    number: int,
) -> tuple[Hypotheses, list[Open], DynamicCache]:  # fmt: skip
    """Read R prefixes of one length from their cache; the pool, their children (cache number `number`), their cache."""
    cache = branch(cache)
    cache.reorder_cache(here.rows)
    tokens = trie.tokens_into(here.nodes)[:, None]
    hidden, cache = model.hidden_states(tokens, media_1NC, past_key_values=cache)
    logits = model.head(hidden[:, -1]).float()[:, None]
    beam = Beams(here.scores[:, None], here.nodes[:, None], trie.paths(here.nodes)[:, None])
    depth = trie.depth_of(int(here.nodes[0]))
    ended, grown, children = expand(trie, beam, logits, depth, rule)
    batch = len(pool.scores)
    if ended is not None:
        nodes, tokens = _by_query(beam.nodes, queries_R, batch, 0), _by_query(beam.tokens, queries_R, batch, -1)
        scores = _by_query(ended, queries_R, batch, MINUS)
        pool = finish(pool, scores.flatten(1), Beams(scores.flatten(1), nodes.flatten(1), tokens.flatten(1, 2)))
    if grown is None:
        return pool, [], cache
    rows = torch.arange(len(queries_R), device=queries_R.device)[:, None].expand(-1, children.shape[2])
    scores = _by_query(grown[:, 0], queries_R, batch, MINUS).flatten(1)
    nodes = _by_query(children[:, 0], queries_R, batch, 0).flatten(1)
    opened = Open(scores, nodes, torch.full_like(nodes, number), _by_query(rows, queries_R, batch, 0).flatten(1))
    return pool, [opened], cache


def _opened(part: Left, source: int) -> Open:
    fan_out = part.nodes.shape[1] // part.width
    row = torch.arange(part.nodes.shape[1], device=part.nodes.device) // fan_out
    first = torch.arange(len(part.nodes), device=row.device)[:, None] * part.width
    return Open(part.scores, part.nodes, torch.full_like(part.nodes, source), first + row)


def _by_query(values: Tensor, queries_R: Tensor, batch: int, empty: float) -> Tensor:
    """Values [R, ...] of prefixes in the order of their queries as [B, most of a query, ...]."""
    counts = torch.bincount(queries_R, minlength=batch)
    places = torch.arange(len(queries_R), device=values.device) - (counts.cumsum(0) - counts)[queries_R]
    out = values.new_full((batch, int(counts.max()), *values.shape[1:]), empty)
    out[queries_R, places] = values
    return out


def _best(prefixes: Open, number: int) -> Open:
    """The best `number` prefixes of every query, best first: [B, C] to [B, number]."""
    order = prefixes.scores.topk(number, dim=1).indices
    return Open(*(getattr(prefixes, field.name).gather(1, order) for field in fields(Open)))


def _joined(parts: list[Open], batch: int, device: torch.device) -> Open:
    """The prefixes of all parts, side by side."""
    if not parts:
        none = torch.zeros(batch, 0, dtype=torch.long, device=device)
        return Open(none.float(), none, none, none)
    return Open(*(torch.cat([getattr(part, field.name) for part in parts], 1) for field in fields(Open)))
