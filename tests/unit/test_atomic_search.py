"""Atomic ranking in chunks of classes against the full matrix of scores."""

from __future__ import annotations

import pytest
import torch

from grace.model.atomic_head import AtomicHead
from grace.retrieval.atomic import ClassRanking


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
    scores, found = ClassRanking(head, rows, scores_at_once).best(hidden, depth)
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
    ClassRanking(head, torch.arange(5000), 1200).best(torch.randn(4, 16), 10)
    assert len(held) == 17 and max(held) <= 1200
