"""Exact trie-constrained search: beam search first, then best-first rounds that start from the pruned prefixes.

A prefix scores at least as much as every identifier below it (log-probabilities are not positive), so the answer is exact
as soon as every open prefix scores less than the last identifier kept and is not tied with it. Until then each round reads the
best open prefixes of each query and opens their children: A* with the prefix's score as its bound (Dijkstra on the tree of
log-probabilities). Prefixes of one depth are read together, even from different queries and rounds.

`Limits` bounds the work; prefixes left open then bound the answer, and only ranks above that bound are certified.

Legend: B queries, C open prefixes of a query, R prefixes read together, F children, P places of the pool.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from grace.identifiers.tree import Trie
from grace.retrieval.beam_search import descend, expand, finish, read_prompts
from grace.retrieval.frontier import Frontier, Group, Prefixes, by_query
from grace.retrieval.hypotheses import FULL, MINUS, Beams, Hypotheses, Rule, branch
from grace.retrieval.prefixes import ReadPrefixes

WIDER_AFTER = 8
"""Rounds after which a round reads twice as many prefixes; a model that hardly distinguishes identifiers needs thousands."""


@dataclass(frozen=True)
class Limits:
    """Limits on the rounds after the beam search."""

    rows: int = 10_000  # prefixes read for one query
    memory: int = 2**30  # bytes: half for prefixes read earlier and still needed, half for those of one pass


@torch.inference_mode()
def exact_search(
    model, prompts_BL: Tensor, media_1NC: Tensor, trie: Trie, beams: int, places: int, rule: Rule = FULL,
    leaves_at_once: int = 0, limits: Limits | None = None,
) -> Hypotheses:  # fmt: skip
    """The best `places` identifiers of all, for prompts of one length, int64 [B, L]; arguments as in `beam_search`.

    `beams` is the width of the first descent and of the first rounds; it changes the work, never the answer. If `limits`
    end the search, `bound` is the best score that an unscored identifier can have.
    """
    limits = limits or Limits()
    batch, device = len(prompts_BL), prompts_BL.device
    logits, cache = read_prompts(model, prompts_BL, media_1NC)
    read, frontier = ReadPrefixes(branch(cache), logits), Frontier(trie, batch, device, limits.rows)

    def keep(depth: int, scores: Tensor, nodes: Tensor, grown) -> None:
        width = grown.layers[0].keys.shape[0] // batch
        row = torch.arange(batch * width, device=device).view(batch, width, 1)
        first = read.add(depth, grown)
        frontier.add(Prefixes(scores, nodes, (first + row).expand(-1, -1, nodes.shape[1] // width).flatten(1)))

    pool = descend(model, logits, cache, media_1NC, trie, beams, places, rule, leaves_at_once, pruned=keep)
    del logits, cache  # the beams' rows take as much memory as a whole pass
    rows, rounds = pool.model_rows, 0
    while True:
        frontier.prune(pool.scores)
        frontier.release(read)
        if read.bytes > limits.memory // 2:
            frontier.give_up()
        if not len(frontier):
            return replace(pool, bound=torch.maximum(pool.bound, frontier.bound), model_rows=rows)
        taken, rounds = frontier.take(beams << (rounds // WIDER_AFTER)), rounds + 1
        for group in frontier.groups(taken, lambda depth: read.rows_at_once(depth, limits.memory // 2)):
            pool, children = _read(model, read, group, media_1NC, trie, pool, rule)
            if children is not None:
                frontier.add(children)
            frontier.prune(pool.scores)
            rows += len(group.queries)


def _read(
    model, read: ReadPrefixes, group: Group, media_1NC: Tensor, trie: Trie, pool: Hypotheses, rule: Rule
) -> tuple[Hypotheses, Prefixes | None]:
    """Read R prefixes of `group.depth` + 1 tokens; return the pool and their children (None: the last level)."""
    here, queries = group.prefixes, group.queries
    cache = read.cache_of(group.depth, here.rows, queries)
    hidden, cache = model.hidden_states(trie.tokens_into(here.nodes)[:, None], media_1NC, past_key_values=cache)
    logits = model.head(hidden[:, -1]).float()[:, None]
    beam = Beams(here.scores[:, None], here.nodes[:, None], trie.paths(here.nodes)[:, None])
    ended, grown, children = expand(trie, beam, logits, group.depth + 1, rule)
    batch = len(pool.scores)
    if ended is not None:
        nodes, tokens = by_query(beam.nodes, queries, batch, 0), by_query(beam.tokens, queries, batch, -1)
        scores = by_query(ended, queries, batch, MINUS).flatten(1)
        pool = finish(pool, scores, Beams(scores, nodes.flatten(1), tokens.flatten(1, 2)), trie)
    if grown is None:
        return pool, None
    first = read.add(group.depth + 1, cache)
    rows = first + torch.arange(len(queries), device=queries.device)[:, None].expand(-1, children.shape[2])
    scores = by_query(grown[:, 0], queries, batch, MINUS).flatten(1)
    nodes = by_query(children[:, 0], queries, batch, 0).flatten(1)
    return pool, Prefixes(scores, nodes, by_query(rows, queries, batch, 0).flatten(1))
