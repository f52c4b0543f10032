"""Exact trie-constrained search: beam search first, then best-first rounds from the prefixes that it pruned.

A prefix scores at least as much as every identifier below it (log-probabilities are not positive), so the answer is exact
as soon as every open prefix scores less than the last identifier kept and is not tied with it. Until then every round reads the
best open prefixes of each query and opens their children: A* with the prefix's score as its bound (Dijkstra on the tree of
log-probabilities). Prefixes of one depth are read together, whatever query and round they are from.

The work is bounded by `Limits`; what is left open then bounds the answer, and only ranks above it are certified.

Legend: B queries, C open prefixes of a query, R prefixes read together, F children, P places of the pool.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from grace.identifiers.tree import Trie
from grace.retrieval.beam_search import descend, expand, finish, read_prompts
from grace.retrieval.hypotheses import FULL, MINUS, Beams, Hypotheses, Rule, branch
from grace.retrieval.prefixes import ReadPrefixes
from grace.retrieval.ties import apart

WIDER_AFTER = 8
"""Rounds after which a round reads twice as many prefixes: a model that tells little apart needs thousands."""


@dataclass(frozen=True)
class Limits:
    """What the rounds after the beam search may take."""

    rows: int = 10_000  # prefixes read for one query
    memory: int = (
        2**30
    )  # bytes: half of it for prefixes that were read and are still needed, half for those of one pass


@dataclass(frozen=True)
class Open:
    """Prefixes that were scored and not read: [B, C]; an empty place has the score -inf."""

    scores: Tensor  # f32
    nodes: Tensor  # int64
    rows: Tensor  # int64: the row of the prefix without its last token among the read prefixes of that depth


@torch.inference_mode()
def exact_search(
    model, prompts_BL: Tensor, media_1NC: Tensor, trie: Trie, beams: int, places: int, rule: Rule = FULL,
    leaves_at_once: int = 0, limits: Limits | None = None,
) -> Hypotheses:  # fmt: skip
    """The best `places` identifiers of all, for prompts of one length, int64 [B, L]; arguments as in `beam_search`.

    `beams` is the width of the first descent and of the first rounds; it changes the work, never the answer. Where `limits`
    end the search, `bound` is the best score that an identifier which was not scored can have.
    """
    limits = limits or Limits()
    batch, device = len(prompts_BL), prompts_BL.device
    logits, cache = read_prompts(model, prompts_BL, media_1NC)
    read = ReadPrefixes(branch(cache), logits)
    parts: list[Open] = []

    def keep(depth: int, scores: Tensor, nodes: Tensor, grown) -> None:
        width = grown.layers[0].keys.shape[0] // batch
        row = torch.arange(batch * width, device=device).view(batch, width, 1)
        first = read.add(depth, grown)
        parts.append(Open(scores, nodes, (first + row).expand(-1, -1, nodes.shape[1] // width).flatten(1)))

    pool = descend(model, logits, cache, media_1NC, trie, beams, places, rule, leaves_at_once, pruned=keep)
    del logits, cache  # the rows of the beams are as large as a whole pass
    open_, rows, rounds = _joined(parts, batch, device), pool.model_rows, 0
    spare = torch.full((batch, 1), limits.rows, device=device)  # prefixes that may still be read
    while True:
        open_, pool = _alive(open_, pool, spare)
        open_ = replace(open_, rows=read.drop_unused(_depths(trie, open_), open_.rows, open_.scores > MINUS))
        if open_.scores.shape[1] and read.bytes > limits.memory // 2:
            pool = replace(pool, bound=torch.maximum(pool.bound, open_.scores[:, 0]))
            open_ = _joined([], batch, device)
        if not open_.scores.shape[1]:
            return replace(pool, model_rows=rows)
        taken, open_ = _split(open_, beams << (rounds // WIDER_AFTER))
        spare, rounds = spare - (taken.scores > MINUS).sum(1, keepdim=True), rounds + 1
        depths = _depths(trie, taken).masked_fill(taken.scores == MINUS, -1)
        for depth in depths[depths >= 0].unique().tolist():
            queries, at = (depths == depth).nonzero(as_tuple=True)
            for here in torch.arange(len(queries), device=device).split(read.rows_at_once(depth, limits.memory // 2)):
                chosen = Open(*(getattr(taken, field.name)[queries[here], at[here]] for field in fields(Open)))
                pool, opened = _read(model, read, depth, media_1NC, trie, chosen, queries[here], pool, rule)
                open_, pool = _alive(_joined([open_, *opened], batch, device), pool, spare)
                rows += len(here)


def _read(
    model, read: ReadPrefixes, depth: int, media_1NC: Tensor, trie: Trie, here: Open, queries_R: Tensor, pool: Hypotheses,
    rule: Rule,
) -> tuple[Hypotheses, list[Open]]:  # fmt: skip
    """Read R prefixes of `depth` + 1 tokens; the pool and their children."""
    cache = read.cache_of(depth, here.rows, queries_R)
    hidden, cache = model.hidden_states(trie.tokens_into(here.nodes)[:, None], media_1NC, past_key_values=cache)
    logits = model.head(hidden[:, -1]).float()[:, None]
    beam = Beams(here.scores[:, None], here.nodes[:, None], trie.paths(here.nodes)[:, None])
    ended, grown, children = expand(trie, beam, logits, depth + 1, rule)
    batch = len(pool.scores)
    if ended is not None:
        nodes, tokens = _by_query(beam.nodes, queries_R, batch, 0), _by_query(beam.tokens, queries_R, batch, -1)
        scores = _by_query(ended, queries_R, batch, MINUS).flatten(1)
        pool = finish(pool, scores, Beams(scores, nodes.flatten(1), tokens.flatten(1, 2)), trie)
    if grown is None:
        return pool, []
    first = read.add(depth + 1, cache)
    rows = first + torch.arange(len(queries_R), device=queries_R.device)[:, None].expand(-1, children.shape[2])
    scores = _by_query(grown[:, 0], queries_R, batch, MINUS).flatten(1)
    nodes = _by_query(children[:, 0], queries_R, batch, 0).flatten(1)
    return pool, [Open(scores, nodes, _by_query(rows, queries_R, batch, 0).flatten(1))]


def _depths(trie: Trie, prefixes: Open) -> Tensor:
    """The depth of the prefixes' parents, int64 [B, C]."""
    bounds = torch.tensor(trie.levels[1:], device=prefixes.nodes.device)
    return (torch.bucketize(prefixes.nodes.contiguous(), bounds, right=True) - 1).clamp(min=0)


def _alive(prefixes: Open, pool: Hypotheses, spare_B1: Tensor) -> tuple[Open, Hypotheses]:
    """The prefixes that can still change the answer, best first, no more of a query than may be read; the others of these are
    in the bound of the pool then. A prefix that scores less than all of the pool, and is not tied with its last, changes nothing.
    """
    alive = ~apart(pool.scores.amin(1, keepdim=True), prefixes.scores) & (prefixes.scores > MINUS)
    scores, order = prefixes.scores.masked_fill(~alive, MINUS).sort(dim=1, descending=True, stable=True)
    kept = alive.sum(1, keepdim=True).minimum(spare_B1)
    beyond = torch.arange(scores.shape[1], device=scores.device) >= kept
    number = int(kept.max())
    if scores.shape[1]:
        left = scores.masked_fill(~beyond, MINUS).amax(1)
        pool = replace(pool, bound=torch.maximum(pool.bound, left))
    scores, order = scores.masked_fill(beyond, MINUS)[:, :number], order[:, :number]
    return Open(scores, prefixes.nodes.gather(1, order), prefixes.rows.gather(1, order)), pool


def _split(prefixes: Open, number: int) -> tuple[Open, Open]:
    """The first `number` prefixes of every query, and the others."""
    parts = [
        [getattr(prefixes, field.name)[:, part] for field in fields(Open)]
        for part in (slice(number), slice(number, None))
    ]
    return Open(*parts[0]), Open(*parts[1])


def _by_query(values: Tensor, queries_R: Tensor, batch: int, empty: float) -> Tensor:
    """Values [R, ...] of prefixes in the order of their queries as [B, most of a query, ...]."""
    counts = torch.bincount(queries_R, minlength=batch)
    places = torch.arange(len(queries_R), device=values.device) - (counts.cumsum(0) - counts)[queries_R]
    out = values.new_full((batch, int(counts.max()), *values.shape[1:]), empty)
    out[queries_R, places] = values
    return out


def _joined(parts: list[Open], batch: int, device: torch.device) -> Open:
    """The prefixes of all parts, side by side."""
    if not parts:
        none = torch.zeros(batch, 0, dtype=torch.long, device=device)
        return Open(none.float(), none, none)
    return Open(*(torch.cat([getattr(part, field.name) for part in parts], 1) for field in fields(Open)))
