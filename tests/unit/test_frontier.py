"""The frontier of exact search against plain lists, batches of prompts of one length, and the counts of a search."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grace.identifiers.tree import Trie
from grace.model.batches import batches_of_one_length
from grace.retrieval.found import Counts, certified_shares
from grace.retrieval.frontier import Frontier, Prefixes, by_query
from grace.retrieval.hypotheses import MINUS

TREE = Trie.build(
    [(a, b, c) for a in range(3) for b in range(3) for c in range(2)], range(18), list("abcdefghijklmnopqr"), 9
)
SCORES = st.lists(st.lists(st.integers(-40, 0), min_size=6, max_size=6), min_size=1, max_size=3)


def prefixes(scores: list[list[int]]) -> Prefixes:
    """Prefix n of every query is node n + 1; -40 stands for an empty place."""
    values = torch.tensor(scores).float()
    nodes = torch.arange(1, values.shape[1] + 1).expand(len(scores), -1)
    return Prefixes(values.masked_fill(values == -40, MINUS), nodes, nodes * 10)


def listed(open_: Prefixes) -> list[list[tuple[float, int, int]]]:
    """The real prefixes of every query, in order."""
    rows = zip(open_.scores.tolist(), open_.nodes.tolist(), open_.rows.tolist(), strict=True)
    return [[one for one in zip(*row, strict=True) if one[0] > MINUS] for row in rows]


@settings(max_examples=100, deadline=None)
@given(scores=SCORES, more=st.data(), pool=st.integers(-41, 0), limit=st.integers(0, 8), taken=st.integers(1, 4))
def test_a_frontier_against_plain_lists(scores, more, pool: int, limit: int, taken: int) -> None:
    """Two batches of prefixes are opened, a few are taken and what is left is pruned: kept, dropped and given up as by hand."""
    batch = len(scores)
    further = more.draw(st.lists(st.lists(st.integers(-40, 0), min_size=4, max_size=4), min_size=batch, max_size=batch))
    frontier = Frontier(TREE, batch, torch.device("cpu"), limit)
    frontier.add(prefixes(scores))
    frontier.add(prefixes(further))
    frontier.prune(torch.full((batch, 2), float(pool)))
    want, bound = [], []
    for one, other in zip(listed(prefixes(scores)), listed(prefixes(further)), strict=True):
        alive = sorted((prefix for prefix in [*one, *other] if prefix[0] >= pool), key=lambda prefix: -prefix[0])
        want.append(alive[:limit])
        bound.append(max((prefix[0] for prefix in alive[limit:]), default=MINUS))
    assert listed(frontier.open) == want and frontier.bound.tolist() == bound
    assert len(frontier) == max(map(len, want))
    first = frontier.take(taken)
    assert listed(first) == [own[:taken] for own in want] and listed(frontier.open) == [own[taken:] for own in want]
    frontier.prune(torch.full((batch, 2), float(pool)))  # what was taken counts as read
    kept = [own[taken:][: limit - len(own[:taken])] for own in want]
    assert listed(frontier.open) == kept
    groups = list(frontier.groups(first, lambda depth: 2))
    read = [
        (int(query), group.depth, *one)
        for group in groups
        for query, *one in zip(
            group.queries, *(values.tolist() for values in vars(group.prefixes).values()), strict=True
        )
    ]
    depth_of = {node: 0 if node < TREE.levels[2] else 1 for node in range(1, 7)}
    assert sorted(read) == sorted(
        (query, depth_of[one[1]], *one) for query, own in enumerate(want) for one in own[:taken]
    )
    assert all(len(group.queries) <= 2 and group.queries.tolist() == sorted(group.queries.tolist()) for group in groups)
    frontier.give_up()
    assert not len(frontier)
    left = [max([low, *(one[0] for one in own)]) for low, own in zip(bound, kept, strict=True)]
    assert frontier.bound.tolist() == left


def test_values_go_back_to_their_queries() -> None:
    values, queries = torch.tensor([[1, 2], [3, 4], [5, 6]]), torch.tensor([0, 0, 2])
    assert by_query(values, queries, 4, -1).tolist() == [
        [[1, 2], [3, 4]], [[-1, -1], [-1, -1]], [[5, 6], [-1, -1]], [[-1, -1], [-1, -1]],
    ]  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(lengths=st.lists(st.integers(1, 5), max_size=30), size=st.integers(1, 7))
def test_batches_hold_prompts_of_one_length(lengths: list[int], size: int) -> None:
    batches = batches_of_one_length([[0] * length for length in lengths], size)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert all(len({lengths[index] for index in batch}) == 1 and len(batch) <= size for batch in batches)
    assert len(batches) == sum(-(-lengths.count(length) // size) for length in set(lengths))


def test_the_counts_of_a_search() -> None:
    share, ranks = certified_shares(np.array([0, 3, 2, 3]), 3)
    assert (share, ranks) == (0.5, [0.75, 0.75, 0.5])
    values = {"hypotheses": 8, "invalid": 2, "duplicates": 0, "failed_queries": 1, "model_rows_per_query": 1.0}
    counts = Counts(**values, certified=share, certified_ranks=ranks)
    assert counts.summary() == {**values, "certified": 0.5, "certified_ranks": ranks, "valid_rate": 0.75}
    assert (
        Counts(**{**values, "hypotheses": 0}, certified=1.0, certified_ranks=[], beams_used=5).summary()["valid_rate"]
        == 0
    )
