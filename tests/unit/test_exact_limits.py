"""What exact search may take: passes over prefixes of many queries at once, memory that is given back, and limits that it keeps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from grace.identifiers.tree import Trie
from grace.retrieval import best_first
from grace.retrieval.best_first import Limits, exact_search
from grace.retrieval.prefixes import ReadPrefixes
from tests.unit.test_search_properties import END, MEDIA, VOCABULARY, TableModel


class UndecidedModel(TableModel):
    """Tells next to nothing apart, as an untrained model: nearly every prefix has to be read."""

    def __init__(self) -> None:
        super().__init__()
        self.passes = 0

    def hidden_states(self, ids_BL, media, past_key_values):
        self.passes += 1
        return super().hidden_states(ids_BL, media, past_key_values)

    def head(self, hidden):
        return 0.001 * super().head(hidden)


@pytest.fixture(scope="module")
def tree() -> Trie:
    rng = np.random.default_rng(0)
    bodies = sorted({tuple(map(int, rng.integers(0, END, size=5))) for _ in range(600)})
    return Trie.build(bodies, range(len(bodies)), [f"{row:04d}" for row in range(len(bodies))], END)


PROMPTS = torch.arange(VOCABULARY)[:, None]


def brute_force(model: TableModel, tree: Trie, prompt: list[int]) -> list[float]:
    paths = tree.paths(tree.nodes_of(torch.arange(tree.leaves))).tolist()
    return sorted((model.score(prompt, tuple(path)) for path in paths), reverse=True)


def test_prefixes_are_read_together_and_given_back(tree: Trie, monkeypatch: pytest.MonkeyPatch) -> None:
    held, plain = [], ReadPrefixes.drop_unused

    def watched(read, *given):
        out = plain(read, *given)
        held.append(read)
        return out

    monkeypatch.setattr(ReadPrefixes, "drop_unused", watched)
    model = UndecidedModel()
    found = exact_search(model, PROMPTS, MEDIA, tree, 3, 10)
    reads = found.model_rows
    assert reads > 8 * tree.leaves / 2  # nearly all had to be read
    assert model.passes < reads / 20
    assert held[-1].bytes == 0 and not held[-1].kept  # no open prefix needs them any more
    for query, prompt in enumerate(PROMPTS.tolist()):
        assert found.scores[query].tolist() == pytest.approx(brute_force(model, tree, prompt)[:10], abs=1e-4)


@pytest.mark.parametrize(
    "limits", [Limits(rows=0), Limits(rows=7), Limits(rows=100), Limits(memory=1), Limits(memory=4000)]
)
def test_a_search_that_a_limit_ends_says_what_may_be_missing(tree: Trie, limits: Limits) -> None:
    model = UndecidedModel()
    found = exact_search(model, PROMPTS, MEDIA, tree, 3, 10, limits=limits)
    assert found.model_rows <= len(PROMPTS) * (1 + 3 * tree.depth + limits.rows)
    for query, prompt in enumerate(PROMPTS.tolist()):
        scores, want = found.scores[query].tolist(), brute_force(model, tree, prompt)
        missing = list(want)
        for score in scores:
            missing.pop(int(np.abs(np.array(missing) - score).argmin()))
        assert found.bound[query] >= missing[0] - 1e-5
        sure = sum(score > float(found.bound[query]) for score in scores)
        assert scores[:sure] == pytest.approx(want[:sure], abs=1e-5)
    assert float(found.bound.min()) > float(found.scores[:, -1].min())  # the limit did end it


def test_one_pass_holds_no_more_rows_than_its_memory_allows(tree: Trie, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, plain = [], best_first._read
    monkeypatch.setattr(
        best_first, "_read",
        lambda model, read, group, *given: (
            seen.append((len(group.queries), read.rows_at_once(group.depth, 2000))) or plain(model, read, group, *given)
        ),
    )  # fmt: skip
    exact_search(UndecidedModel(), PROMPTS, MEDIA, tree, 50, 10, limits=Limits(memory=4000, rows=60))
    assert not seen or all(rows <= most for rows, most in seen)
    seen.clear()
    monkeypatch.setattr(ReadPrefixes, "bytes", 0)  # so that only the pass is bounded
    exact_search(UndecidedModel(), PROMPTS, MEDIA, tree, 50, 10, limits=Limits(memory=4000, rows=200))
    assert len(seen) > 5 and all(rows <= most for rows, most in seen)
