"""The frontier of exact search: prefixes of a batch of queries that are scored but not read yet.

A prefix leaves the frontier when it is read, when nothing below it can still enter the answer, or when it is given up because a
limit is reached. Prefixes that are given up bound the answer: `Frontier.bound`.

Legend: B queries, C open prefixes of a query, R prefixes read together, P places of the pool.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from grace.identifiers.tree import Trie
from grace.retrieval.hypotheses import MINUS
from grace.retrieval.prefixes import ReadPrefixes
from grace.retrieval.ties import apart


@dataclass(frozen=True)
class Prefixes:
    """Prefixes of a batch, [B, C] (an empty place has the score -inf), or a flat list of them, [R]."""

    scores: Tensor  # f32, nats
    nodes: Tensor  # int64
    rows: Tensor  # int64: row of the parent prefix among the read prefixes of its depth

    def select(self, choose: Callable[[Tensor], Tensor]) -> Prefixes:
        """The same selection from all three tensors."""
        return Prefixes(choose(self.scores), choose(self.nodes), choose(self.rows))


@dataclass(frozen=True)
class Group:
    """R prefixes that are read in one pass; their parents all have depth `depth`."""

    depth: int
    prefixes: Prefixes  # [R]
    queries: Tensor  # int64 [R], ascending


class Frontier:
    """The open prefixes of B queries, best first after `prune`."""

    def __init__(self, trie: Trie, batch: int, device: torch.device, limit: int) -> None:
        """`limit`: how many prefixes may be read for one query."""
        none = torch.zeros(batch, 0, dtype=torch.long, device=device)
        self.trie, self.empty = trie, Prefixes(none.float(), none, none)
        self.open = self.empty
        self.spare_B1 = torch.full((batch, 1), limit, device=device)  # prefixes that may still be read
        self.bound = torch.full((batch,), MINUS, device=device)  # f32 [B]: best score of what was given up

    def __len__(self) -> int:
        """The largest number of open prefixes of a query, including useless ones that `prune` has not dropped yet."""
        return self.open.scores.shape[1]

    def add(self, more: Prefixes) -> None:
        """Open more prefixes, [B, C]."""
        pairs = ((self.open.scores, more.scores), (self.open.nodes, more.nodes), (self.open.rows, more.rows))
        self.open = Prefixes(*(torch.cat(pair, 1) for pair in pairs))

    def prune(self, pool_scores_BP: Tensor) -> None:
        """Keep the prefixes that can still change the answer, best first, at most as many per query as may be read.

        A prefix that scores less than the whole pool, and is not tied with its last, cannot change the answer and is dropped;
        those beyond the number that may be read are given up.
        """
        here = self.open
        alive = ~apart(pool_scores_BP.amin(1, keepdim=True), here.scores) & (here.scores > MINUS)
        scores, order = here.scores.masked_fill(~alive, MINUS).sort(dim=1, descending=True, stable=True)
        kept = alive.sum(1, keepdim=True).minimum(self.spare_B1)
        beyond = torch.arange(scores.shape[1], device=scores.device) >= kept
        if scores.shape[1]:
            self._give_up(scores.masked_fill(~beyond, MINUS))
        order = order[:, : int(kept.max())]
        scores = scores.masked_fill(beyond, MINUS)[:, : order.shape[1]]
        self.open = Prefixes(scores, here.nodes.gather(1, order), here.rows.gather(1, order))

    def release(self, read: ReadPrefixes) -> None:
        """Let `read` drop the rows that no open prefix continues, and update the row numbers of the others."""
        rows = read.drop_unused(self._depths(self.open), self.open.rows, self.open.scores > MINUS)
        self.open = replace(self.open, rows=rows)

    def give_up(self) -> None:
        """Give up all open prefixes."""
        if len(self):
            self._give_up(self.open.scores)
        self.open = self.empty

    def take(self, number: int) -> Prefixes:
        """Remove and return the first `number` prefixes of every query, to be read."""
        taken = self.open.select(lambda values: values[:, :number])
        self.open = self.open.select(lambda values: values[:, number:])
        self.spare_B1 = self.spare_B1 - (taken.scores > MINUS).sum(1, keepdim=True)
        return taken

    def groups(self, taken: Prefixes, most: Callable[[int], int]) -> Iterator[Group]:
        """The prefixes `taken`, grouped by depth across queries, at most `most(depth)` at a time."""
        depths = self._depths(taken).masked_fill(taken.scores == MINUS, -1)
        for depth in depths[depths >= 0].unique().tolist():
            queries, at = (depths == depth).nonzero(as_tuple=True)
            for here in torch.arange(len(queries), device=queries.device).split(most(depth)):
                chosen = (queries[here], at[here])
                yield Group(depth, taken.select(lambda values, chosen=chosen: values[chosen]), queries[here])

    def _depths(self, prefixes: Prefixes) -> Tensor:
        """The depth of the prefixes' parents, int64 [B, C]."""
        bounds = torch.tensor(self.trie.levels[1:], device=prefixes.nodes.device)
        return (torch.bucketize(prefixes.nodes.contiguous(), bounds, right=True) - 1).clamp(min=0)

    def _give_up(self, scores_BC: Tensor) -> None:
        self.bound = torch.maximum(self.bound, scores_BC.amax(1))


def by_query(values: Tensor, queries_R: Tensor, batch: int, empty: float) -> Tensor:
    """Values [R, ...] of prefixes, sorted by query, as [B, largest number per query, ...], padded with `empty`."""
    counts = torch.bincount(queries_R, minlength=batch)
    places = torch.arange(len(queries_R), device=values.device) - (counts.cumsum(0) - counts)[queries_R]
    out = values.new_full((batch, int(counts.max()), *values.shape[1:]), empty)
    out[queries_R, places] = values
    return out
