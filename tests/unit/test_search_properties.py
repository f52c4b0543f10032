"""Properties of the searches over any set of identifiers, against brute force with a model that is a table.

The model's logits are a fixed function of every token that it has read, so a search that fed a wrong token, reordered the
cache wrongly or lost a prefix finds other scores.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import DynamicCache

from grace.identifiers.base import IdentifierTables
from grace.identifiers.tree import Trie
from grace.retrieval.beam_search import beam_search
from grace.retrieval.best_first import exact_search
from grace.retrieval.generative import generative_search
from grace.retrieval.ties import apart
from grace.workflow.config import Retrieve

VOCABULARY, END, MEDIA = 8, 7, torch.zeros(1, 1, 1, 1)
# bodies with the image that each belongs to: prefix-free or not, several images a body, several bodies an image, or just one
IDENTIFIERS = st.lists(
    st.tuples(st.lists(st.integers(0, END - 1), min_size=1, max_size=5).map(tuple), st.integers(0, 9)),
    min_size=1, max_size=40,
)  # fmt: skip
PROMPTS = st.integers(1, 3).flatmap(
    lambda length: st.lists(
        st.lists(st.integers(0, VOCABULARY - 1), min_size=length, max_size=length), min_size=1, max_size=3
    )
)


class TableModel:
    """Stands in for a Flamingo: the hidden state is a number that depends on all tokens read, in their order."""

    def __init__(self) -> None:
        self.rows = 0

    def hidden_states(
        self, ids_BL: Tensor, media: Tensor, past_key_values: DynamicCache
    ) -> tuple[Tensor, DynamicCache]:
        assert len(media) == 1  # the pad image, shared by all rows
        self.rows += len(ids_BL)
        keys = ids_BL[:, None, :, None].double()
        read, _ = past_key_values.update(keys, keys, 0)
        out, state = [], torch.zeros(len(ids_BL), dtype=torch.double)
        for token in read[:, 0, :, 0].unbind(1):
            state = torch.remainder(state * 0.7 + (token + 1) * 1.37, 6.5)
            out.append(state)
        return torch.stack(out, 1)[:, -ids_BL.shape[1] :, None], past_key_values

    def head(self, hidden: Tensor) -> Tensor:
        place = torch.arange(1, VOCABULARY + 1, dtype=torch.double)
        return 4 * torch.sin(hidden * place * 1.9 + place)

    def score(self, prompt: list[int], body: tuple[int, ...]) -> float:
        """The score of an identifier, closed by its end: one pass, nothing kept."""
        closed = (*body, END)
        hidden, _ = self.hidden_states(torch.tensor([[*prompt, *body]]), MEDIA, DynamicCache())
        gains = self.head(hidden[0, len(prompt) - 1 :]).log_softmax(-1)
        return gains[torch.arange(len(closed)), closed].sum().item()


def tree_of(identifiers: list[tuple[tuple[int, ...], int]]) -> Trie:
    return Trie.build([body for body, _ in identifiers], [image for _, image in identifiers], list("abcdefghij"), END)


def answers(found, query: int) -> dict[tuple[int, ...], float]:
    rows = zip(found.nodes[query].tolist(), found.scores[query].tolist(), found.tokens[query].tolist(), strict=True)
    return {tuple(token for token in path if token >= 0): score for node, score, path in rows if node >= 0}


@settings(max_examples=150, deadline=None)
@given(
    identifiers=IDENTIFIERS,
    prompts=PROMPTS,
    beams=st.integers(1, 50),
    places=st.integers(1, 50),
    at_once=st.integers(0, 50),
)
def test_every_search_against_scoring_every_identifier(identifiers, prompts, beams: int, places: int, at_once: int):
    model, trie = TableModel(), tree_of(identifiers)
    bodies = sorted({body for body, _ in identifiers})
    read = torch.tensor(prompts)
    beam = beam_search(model, read, MEDIA, trie, beams, places, leaves_at_once=at_once)
    assert model.rows <= beam.model_rows  # rows are tokens fed; a pass over several tokens of a row counts each
    exact = exact_search(model, read, MEDIA, trie, beams, places, leaves_at_once=at_once)
    for query, prompt in enumerate(prompts):
        want = {body: model.score(prompt, body) for body in bodies}
        best = sorted(want.values(), reverse=True)[:places]
        for found in (beam, exact):
            got = answers(found, query)
            assert list(got.values()) == pytest.approx([want[body] for body in got], abs=1e-4)
            assert list(got.values()) == sorted(got.values(), reverse=True)
        assert exact.scores[query].tolist()[: len(best)] == pytest.approx(best, abs=1e-4)
        assert len(answers(exact, query)) == len(best)
        sure = sum(score > float(beam.bound[query]) for score in answers(beam, query).values())
        assert list(answers(beam, query).values())[:sure] == pytest.approx(best[:sure], abs=1e-4)
        if beams >= len(bodies):  # nothing is ever pruned
            assert len(answers(beam, query)) == len(best) == sure


@settings(max_examples=60, deadline=None)
@given(
    identifiers=IDENTIFIERS, prompts=PROMPTS, beams=st.integers(1, 12), depth=st.integers(1, 12),
    merge=st.sampled_from(["max", "logsumexp"]), search=st.sampled_from(["beam", "exact"]),
)  # fmt: skip
def test_images_are_ranked_by_their_identifiers(identifiers, prompts, beams: int, depth: int, merge: str, search: str):
    """An image of several identifiers has the best of them or their sum; what is certified is the ranking by brute force."""
    model, trie = TableModel(), tree_of(identifiers)
    pairs = sorted(set(identifiers))
    table = pd.DataFrame({
        "image_id": ["abcdefghij"[image] for _, image in pairs], "split": "test", "tokens": [body for body, _ in pairs],
        "text": "",
    })  # fmt: skip
    names = [str(row) for row in range(len(prompts))]
    chosen = Retrieve(search=search, beams=beams, depth=depth, merge=merge, batch_size=2)
    result = generative_search(
        model, prompts, MEDIA, trie, IdentifierTables(Path(), "semantic", table, [], []), chosen, names
    )
    rows, certified = result.answers, result.certified
    assert result.counts.invalid == 0
    for name, prompt in zip(names, prompts, strict=True):
        scores: dict[str, list[float]] = {}
        for image, body in zip(table["image_id"], table["tokens"], strict=True):
            scores.setdefault(image, []).append(model.score(prompt, body))
        whole = {image: max(of) if merge == "max" else float(np.logaddexp.reduce(of)) for image, of in scores.items()}
        best = sorted(whole.values(), reverse=True)[:depth]
        found = [score for _, score in rows[name]]
        assert len(found) <= len(best)
        if merge == "max":
            assert all(whole[image] >= score - 1e-4 for image, score in rows[name])
            sure = certified[name]
            assert found[:sure] == pytest.approx(best[:sure], abs=1e-4)
            if search == "exact":
                assert found == pytest.approx(best, abs=1e-4)
                order = torch.tensor([*sorted(whole.values(), reverse=True), -np.inf])
                untied = apart(order[:-1], order[1:])[:depth].tolist()
                assert sure == next((rank for rank, alone in enumerate(untied) if not alone), len(best))


class FlatModel(TableModel):
    """Every token is as likely as any other, so that identifiers of one length are tied."""

    def head(self, hidden: Tensor) -> Tensor:
        return torch.zeros(*hidden.shape[:-1], VOCABULARY)


@settings(max_examples=60, deadline=None)
@given(
    identifiers=IDENTIFIERS, queries=st.integers(1, 5), beams=st.integers(1, 12), depth=st.integers(1, 12),
    batch=st.integers(1, 4), at_once=st.sampled_from([0, 5, 20]),
)  # fmt: skip
def test_ties_are_ordered_by_image_before_the_cut(
    identifiers, queries, beams: int, depth: int, batch: int, at_once: int
):
    trie, pairs = tree_of(identifiers), sorted(set(identifiers))
    table = pd.DataFrame({
        "image_id": ["abcdefghij"[image] for _, image in pairs], "split": "test", "tokens": [body for body, _ in pairs],
        "text": "",
    })  # fmt: skip
    assigned, found = IdentifierTables(Path(), "semantic", table, [], []), {}
    shortest = table.assign(length=table["tokens"].map(len)).groupby("image_id")["length"].min()
    best = sorted(shortest.items(), key=lambda pair: (pair[1], pair[0]))
    for search in ("beam", "exact"):
        chosen = Retrieve(search=search, beams=beams, depth=depth, batch_size=batch, leaves_at_once=at_once)
        prompts, names = [[query] for query in range(queries)], [str(query) for query in range(queries)]
        result = generative_search(FlatModel(), prompts, MEDIA, trie, assigned, chosen, names)
        found, certified = result.answers, result.certified
        for name in names:
            images = [image for image, _ in found[name]]
            assert images == [image for image, _ in found["0"]]  # whatever else is in the batch
            assert images == sorted(images, key=lambda image: (shortest[image], image))
            if search == "exact":
                assert images == [image for image, _ in best[:depth]]
                lengths = [length for _, length in best] + [np.inf]
                assert certified[name] == next(
                    (r for r in range(len(images)) if lengths[r] == lengths[r + 1]), len(images)
                )
