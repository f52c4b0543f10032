"""Ties that arithmetic blurs: scores that are equal in theory and differ in their last bits, and what is certified of them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import DynamicCache

from grace.identifiers.base import IdentifierTables, read_tokenizer
from grace.identifiers.tree import Trie
from grace.model.atomic_head import AtomicHead
from grace.model.flamingo import build
from grace.model.prompts import Prompts
from grace.retrieval.atomic import ClassRanking
from grace.retrieval.best_first import Limits, exact_search
from grace.retrieval.frontier import Frontier
from grace.retrieval.generative import generative_search
from grace.retrieval.ties import TIE, certified_ranks, first_of, ranked
from grace.workflow.config import Flamingo, Retrieve, ScratchLanguageModel
from tests.unit.test_search_properties import END, IDENTIFIERS, MEDIA, VOCABULARY, FlatModel, TableModel


def searched(model, bodies, images, prompts, media=MEDIA, end=END, **keys):
    """Answers, counts and certified ranks of `generative_search`; identifier n is of images[n]."""
    names = list(dict.fromkeys(images))
    table = pd.DataFrame({"image_id": images, "split": "test", "tokens": bodies, "text": ""})
    trie = Trie.build(bodies, [names.index(image) for image in images], names, end)
    assigned = IdentifierTables(Path(), "semantic", table, [], [])
    asked = [str(row) for row in range(len(prompts))]
    found = generative_search(model, prompts, media, trie, assigned, Retrieve(**keys), asked)
    return found.answers, found.counts, found.certified


class NoisyModel(TableModel):
    """Twin tokens (t and t + 3) mean the same, and sums are off in their last bits, otherwise in every pass."""

    def __init__(self) -> None:
        super().__init__()
        self.noise = torch.Generator().manual_seed(0)

    def hidden_states(self, ids_BL, media, past_key_values):
        return super().hidden_states(torch.where(ids_BL < 6, ids_BL % 3, ids_BL), media, past_key_values)

    def head(self, hidden):
        logits = super().head(hidden)
        logits = logits[..., [0, 1, 2, 0, 1, 2, 6, 7]].float()
        return logits + 5e-7 * torch.randn(logits.shape, generator=self.noise)

    def exact(self, prompt: list[int], body: tuple[int, ...]) -> float:
        """The score without the noise."""
        plain = TableModel()
        alike = [token % 3 if token < 6 else token for token in (*prompt, *body)]
        hidden, _ = plain.hidden_states(torch.tensor([alike]), MEDIA, DynamicCache())
        gains = plain.head(hidden[0, len(prompt) - 1 :])[:, [0, 1, 2, 0, 1, 2, 6, 7]].log_softmax(-1)
        closed = (*body, END)
        return gains[torch.arange(len(closed)), closed].sum().item()


@settings(max_examples=80, deadline=None)
@given(
    identifiers=IDENTIFIERS, prompts=st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=5),
    beams=st.integers(1, 12), depth=st.integers(1, 12), batch=st.integers(1, 5), at_once=st.sampled_from([0, 5, 50]),
)  # fmt: skip
def test_exact_search_orders_blurred_ties_as_brute_force_does(identifiers, prompts, beams, depth, batch, at_once):
    """Whatever the last bits of the sums are, twins are ordered by image before the cut and are not certified."""
    pairs, model = sorted(set(identifiers)), NoisyModel()
    images = ["abcdefghij"[image] for _, image in pairs]
    bodies = [body for body, _ in pairs]
    keys = {"beams": beams, "depth": depth, "batch_size": batch, "leaves_at_once": at_once, "search": "exact"}
    found, _, certified = searched(model, bodies, images, [[prompt] for prompt in prompts], **keys)
    for query, prompt in enumerate(prompts):
        scores: dict[str, float] = {}
        for image, body in zip(images, bodies, strict=True):
            scores[image] = max(model.exact([prompt], body), scores.get(image, -np.inf))
        distinct = sorted({round(score, 3) for score in scores.values()}, reverse=True)
        if any(high - low < 0.0015 for high, low in pairwise(distinct)):
            continue  # so close to each other that nobody knows whether they are tied
        best = sorted(scores, key=lambda image: (-round(scores[image], 3), image))
        assert [image for image, _ in found[str(query)]] == best[:depth]
        levels = [round(scores[image], 3) for image in best] + [np.inf]
        alone = next((rank for rank in range(len(best)) if levels[rank] == levels[rank + 1]), len(best))
        assert certified[str(query)] == min(alone, depth)


@torch.inference_mode()
@pytest.mark.parametrize("family", ["opt", "mpt", "llama"])
@pytest.mark.parametrize("search", ["beam", "exact"])
def test_twin_tokens_are_answered_the_same_in_any_batch(family: str, search: str, tokenizer_folder) -> None:
    """Real models: tokens with the same weights, of which a matrix product makes scores with other last bits."""
    tokenizer = read_tokenizer(tokenizer_folder)
    small = ScratchLanguageModel(architecture=family, width=128, layers=4, heads=4, max_length=96)
    shape = Flamingo(scratch=small, perceiver_latents=4, cross_attention_every=1, gate=0.5)
    model, rng = build(shape, tokenizer, visual_width=16).eval(), np.random.default_rng(0)
    tokens = list(range(20, 140))
    for parameter in model.lang_encoder.parameters():
        parameter.mul_(2)
    for weight in (model.lang_encoder.get_input_embeddings().weight, model.lang_encoder.get_output_embeddings().weight):
        for place, token in enumerate(tokens):
            weight[token] = weight[tokens[place % 6]]
    kinds = rng.integers(0, 6, size=(12, 4))
    bodies = sorted(
        {tuple(tokens[kind + 6 * int(rng.integers(20))] for kind in kinds[rng.integers(12)]) for _ in range(300)}
    )
    images = [f"{number:03d}" for number in rng.permutation(len(bodies))]
    media = model.resample(torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(0)))
    prompts = rng.integers(0, len(tokenizer) - 5, size=(24, 20)).tolist()
    answers = []
    for batch in (1, 2, 5, 24):
        keys = {"search": search, "batch_size": batch, "leaves_at_once": 0}
        found, counts, _ = searched(model, bodies, images, prompts, media, Prompts(tokenizer).end, **keys)
        answers.append({query: [image for image, _ in rows] for query, rows in found.items()})
        assert counts.certified_ranks[0] == 0.0  # twenty twins of every first token
    assert answers[0] == answers[1] == answers[2] == answers[3]


@torch.inference_mode()
@pytest.mark.parametrize("temperature", [0.07, 0.01])
@pytest.mark.parametrize("width", [64, 512])
def test_classes_of_one_direction_are_tied_whatever_their_length(temperature: float, width: int) -> None:
    """They are equal once normalised, but for their last bits."""
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(1, width, generator=generator)
    head = AtomicHead(64, direction * (0.1 + 5 * torch.rand(1000, 1, generator=generator)), temperature)
    hidden = torch.randn(24, 64, generator=generator)
    names = torch.randperm(1000, generator=generator)
    for chunk in (300, 5000, 2**24):
        ranking = ClassRanking(head, torch.arange(1000), names, chunk)
        for batch in (1, 2, 5, 24):
            for here in hidden.split(batch):
                scores, places = ranking.best(here, 10)
                assert torch.equal(names[places], torch.arange(10).expand(len(here), -1))
                assert torch.equal(scores, scores[:, :1].expand(-1, 10))  # so that a run file keeps their order


FOUR = [(0, 1, 1), (1, 1, 1), (2, 1, 1), (3, 1, 1)]


@pytest.mark.parametrize("normalisation", ["full", "children"])
@pytest.mark.parametrize("at_once", [0, 20])
def test_a_tie_with_what_was_not_kept_is_not_certified(normalisation: str, at_once: int) -> None:
    """An identifier that lost its place in the first descent, or that is below a prefix that scores no more than the last kept."""
    keys = {"normalisation": normalisation, "leaves_at_once": at_once, "beams": 1, "depth": 1}
    for search in ("exact", "beam"):
        found, _, certified = searched(FlatModel(), FOUR, list("dcba"), [[1]], search=search, **keys)
        assert certified["0"] == 0
        assert search == "beam" or [image for image, _ in found["0"]] == ["a"]


def test_a_rank_next_to_the_bound_is_not_certified() -> None:
    assert certified_ranks([("a", -5.0), ("b", -7.0)], -5.0 - 1e-6) == 0
    assert certified_ranks([("a", -5.0), ("b", -7.0)], -6.0) == 1
    assert certified_ranks([("a", -5.0), ("b", -7.0)], -np.inf) == 2
    assert certified_ranks([("a", -5.0), ("b", -5.0), ("c", -7.0)], -np.inf) == 0


@settings(max_examples=200, deadline=None)
@given(
    levels=st.lists(st.lists(st.integers(0, 6), min_size=9, max_size=9), min_size=1, max_size=4),
    number=st.integers(1, 9), seed=st.integers(0, 2**32 - 1), blur=st.sampled_from([0.0, 0.4]),
)  # fmt: skip
def test_the_first_of_scores_against_sorting_them(levels, number: int, seed: int, blur: float) -> None:
    noise = torch.rand(len(levels), 9, generator=torch.Generator().manual_seed(seed)) * blur * TIE
    exact = torch.tensor(levels).float()
    scores = torch.where(exact == 0, -torch.inf, exact + noise)
    found = first_of(scores, number)
    for row, places in zip(levels, found.tolist(), strict=True):
        want = sorted(range(9), key=lambda place: (-row[place], place))[:number]
        assert [place for place in places if row[place]] == [place for place in want if row[place]]
    sorted_whole = first_of(scores, 9)[:, :number]
    real = scores.gather(1, found) > -torch.inf
    assert torch.equal(found[real], sorted_whole[real])


def test_ranked_gives_tied_images_one_score() -> None:
    found = ranked({"c": -5.0, "a": -5.0 - 2e-6, "b": -5.0 - 4e-6, "d": -9.0, "e": -1.0})
    assert found == [("e", -1.0), ("a", -5.0), ("b", -5.0), ("c", -5.0), ("d", -9.0)]
    assert ranked({"b": -1e-7, "a": -1.0}) == [("b", -1e-7), ("a", -1.0)]


def test_the_limit_on_prefixes_is_of_each_query(monkeypatch: pytest.MonkeyPatch) -> None:
    """A query is answered the same whatever other queries, which may need fewer or more prefixes, are read beside it."""
    rng = np.random.default_rng(3)
    bodies = sorted({tuple(map(int, rng.integers(0, END, size=4))) for _ in range(400)})
    trie = Trie.build(bodies, range(len(bodies)), [f"{row:03d}" for row in range(len(bodies))], END)
    prompts, limits = torch.tensor([[a, b] for a in range(4) for b in range(4)]), Limits(rows=40)
    held, plain = [], Frontier.prune
    monkeypatch.setattr(Frontier, "prune", lambda self, scores: plain(self, scores) or held.append(len(self)))
    whole = exact_search(TableModel(), prompts, MEDIA, trie, 2, 10, limits=limits)
    ended = whole.bound > -torch.inf
    for query in range(len(prompts)):
        alone = exact_search(TableModel(), prompts[query : query + 1], MEDIA, trie, 2, 10, limits=limits)
        assert torch.equal(alone.nodes[0], whole.nodes[query])
        assert float(alone.bound) == pytest.approx(float(whole.bound[query]))
    assert bool(ended.any())
    assert 0 < max(held) <= 40  # no more prefixes are kept open than may be read


@pytest.mark.parametrize("per_image", [1, 4])
def test_more_beams_mean_fewer_queries_at_a_time(per_image: int) -> None:
    """The memory of a pass stays what the settings name, whatever the beams were scaled by."""
    rows, plain = [], TableModel.hidden_states

    class Watched(TableModel):
        def hidden_states(self, ids_BL, media, past_key_values):
            rows.append(len(ids_BL))
            return plain(self, ids_BL, media, past_key_values)

    rng = np.random.default_rng(1)
    bodies = sorted({tuple(map(int, rng.integers(0, END, size=4))) for _ in range(200)})[: 40 * per_image]
    images = [f"{row // per_image:02d}" for row in rng.permutation(len(bodies))]
    prompts = [[a, b] for a in range(7) for b in range(7)]
    keys = {"batch_size": 16, "beams": 5, "depth": 5, "leaves_at_once": 0}
    found, counts, _ = searched(Watched(), bodies, images, prompts, **keys)
    assert counts.beams_used == 5 * per_image and all(len(rows) == 5 for rows in found.values())
    assert max(rows) <= 16 * 5
    if per_image == 1:
        assert max(rows) == 16 * 5  # and no fewer where nothing is scaled
