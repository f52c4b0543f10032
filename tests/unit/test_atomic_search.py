"""Atomic ranking in chunks of classes against the full matrix of scores, ties included, and what the search counts."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grace.identifiers.base import IdentifierTables
from grace.identifiers.tree import Trie
from grace.model.atomic_head import AtomicHead
from grace.retrieval.atomic import BLOCK, ClassRanking, _top, atomic_search
from grace.workflow.config import Retrieve


@pytest.mark.parametrize(("classes", "gallery"), [(500, 200), (500, 500), (7, 3), (40, 1)])
@pytest.mark.parametrize("scores_at_once", [1, 60, 1000, 2**24])
@torch.inference_mode()
def test_chunks_rank_as_the_full_matrix(classes: int, gallery: int, scores_at_once: int) -> None:
    generator = torch.Generator().manual_seed(classes + gallery)
    head = AtomicHead(16, torch.randn(classes, 8, generator=generator))
    hidden = torch.randn(6, 16, generator=generator)
    rows = torch.randperm(classes, generator=generator)[:gallery]  # the gallery's order is not that of the classes
    depth = min(10, gallery)
    want, places = head(hidden).log_softmax(-1)[:, rows].topk(depth, dim=1)
    scores, found = ClassRanking(head, rows, scores_at_once=scores_at_once).best(hidden, depth)
    assert torch.allclose(scores, want, atol=1e-5)
    assert torch.equal(found, places)
    assert scores.exp().sum(1).max() <= 1 + 1e-5


@torch.inference_mode()
def test_no_more_scores_are_held_than_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    head = AtomicHead(16, torch.randn(5000, 8))
    held, plain = [], torch.Tensor.__matmul__

    def watched(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        out = plain(one, other)
        held.append(out.numel())
        return out

    monkeypatch.setattr(torch.Tensor, "__matmul__", watched)
    ClassRanking(head, torch.arange(5000), scores_at_once=1200).best(torch.randn(4, 16), 10)
    assert len(held) == 17 and max(held) <= 1200


def searched(classes_KD: torch.Tensor, names: list[str], queries: int, batch_size: int, depth: int = 10, trie=None):
    """`atomic_search` with a model whose hidden states depend on the query alone; image n has class n."""
    torch.manual_seed(0)
    head = AtomicHead(16, classes_KD)
    hidden = torch.randn(queries, 16)
    model = SimpleNamespace(
        atomic_head=head, hidden_states=lambda prompts, media: (hidden[prompts[:, 0]][:, None], None)
    )
    table = pd.DataFrame({"image_id": names, "split": "test", "tokens": [[n] for n in range(len(names))], "text": ""})
    tree = trie or Trie.build(table["tokens"].tolist(), range(len(names)), names, None)
    asked = [[query] for query in range(queries)]
    found = atomic_search(
        model, asked, torch.zeros(1), tree, IdentifierTables(Path(), "atomic", table, [], []),
        Retrieve(depth=depth, batch_size=batch_size), [str(query) for query in range(queries)],
    )  # fmt: skip
    return found.answers, found.counts, found.certified, head(hidden).log_softmax(-1).detach()


@settings(max_examples=60, deadline=None)
@given(
    different=st.integers(1, 40), classes=st.integers(1, 60), depth=st.integers(1, 12), batch=st.integers(1, 7),
    chunk=st.integers(1, 500), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_ties_are_ordered_by_image_before_the_cut(different, classes, depth, batch, chunk, seed) -> None:
    """Identical classes have the same score to the bit in every batch and chunk, and the lowest image ids of them are kept."""
    rng = np.random.default_rng(seed)
    kinds = torch.tensor(rng.normal(size=(different, 8)), dtype=torch.float32)
    kind = rng.integers(0, different, size=classes)
    names = [f"{number:03d}" for number in rng.permutation(classes)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("grace.retrieval.atomic.SCORES_AT_ONCE", chunk)
        found, counts, certified, scores = searched(kinds[kind], names, 7, batch, depth)
    by_kind = {number: scores[:, kind == number].mean(1) for number in set(kind.tolist())}
    for query in range(7):
        best = sorted((-float(by_kind[number][query]), name) for number, name in zip(kind.tolist(), names, strict=True))
        answers = found[str(query)]
        assert [name for name, _ in answers] == [name for _, name in best[:depth]]
        gaps = [after - score for (score, _), (after, _) in zip(best, [*best[1:], (np.inf, "")], strict=True)]
        untied = next((rank for rank, gap in enumerate(gaps) if gap < 1e-4), len(gaps))
        assert certified[str(query)] == min(untied, depth)
    assert counts.invalid == 0


def test_classes_all_alike_are_answered_the_same_in_any_batch() -> None:
    alike = torch.ones(31, 8)
    names = [f"{number:02d}" for number in np.random.default_rng(0).permutation(31)]
    for batch in (1, 2, 5):
        found, counts, _, _ = searched(alike, names, 5, batch)
        assert all([name for name, _ in answers] == sorted(names)[:10] for answers in found.values())
        assert counts.certified == 0.0 and counts.certified_ranks == [0.0] * 10


def test_an_answer_that_is_not_in_the_trie_is_counted_as_invalid() -> None:
    classes = torch.eye(8)
    names = list("abcdefgh")
    tree = Trie.build([[n] for n in range(7)], range(7), names, None)
    wrong = Trie.build([[n] for n in range(8)], [1, 0, *range(2, 8)], names, None)
    for other, invalid in ((None, 0), (tree, 6), (wrong, 12)):
        assert searched(classes, names, 6, 4, depth=8, trie=other)[1].invalid == invalid


def test_the_trie_is_asked_about_the_answers_only(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, plain = [], Trie.find
    monkeypatch.setattr(Trie, "find", lambda tree, tokens: asked.append(len(tokens)) or plain(tree, tokens))
    monkeypatch.setattr(Trie, "walk", lambda *_: pytest.fail("the trie was walked image by image"))
    searched(torch.randn(5000, 8), [f"{n:04d}" for n in range(5000)], 3, 2)
    assert len(asked) == 1 and asked[0] <= 30


@pytest.mark.parametrize("length", [30, BLOCK * 40, BLOCK * 50 + 77])
def test_the_best_of_blocks_are_the_best_of_all(length: int) -> None:
    scores = torch.randn(3, length, generator=torch.Generator().manual_seed(length))
    scores[1] = scores[1].sort().values  # all of the best in the last blocks
    want, found = scores.topk(12, dim=1), _top(scores, 12)
    assert torch.equal(want.values, found[0]) and torch.equal(want.indices, found[1])
