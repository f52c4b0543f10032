"""Exact search and answers of full depth against brute force: ranks, certificates, images with several identifiers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from grace.identifiers.base import IdentifierTables
from grace.identifiers.tree import Trie
from grace.model.prompts import Prompts
from grace.retrieval.beam_search import beam_search
from grace.retrieval.best_first import exact_search
from grace.retrieval.found import Counts
from grace.retrieval.generative import generative_search
from grace.retrieval.hypotheses import Rule
from grace.workflow.config import Retrieve
from tests.unit import small_models
from tests.unit.small_models import alphabets, brute_force, of_one_length, random_set

parts = small_models.parts


@torch.inference_mode()
@pytest.mark.parametrize("normalisation", ["full", "children", "level"])
def test_exact_search_equals_brute_force_and_the_certificate_never_lies(parts, normalisation: str) -> None:
    model, tokenizer = parts
    prompts, inexact, open_ranks, worked = Prompts(tokenizer), 0, 0, 0
    for seed in range(8):
        rng = np.random.default_rng([seed, 5])
        sequences = random_set(rng, len(tokenizer), 60)
        images = list(range(len(sequences)))
        trie = Trie.build(sequences, images, [f"im{i}" for i in images], prompts.end)
        levels = alphabets(sequences, prompts.end)
        media = model.resample(torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(seed)))
        texts = rng.choice(["two dogs", "a child", "the river", "a man", "some people"], size=2, replace=False)
        queries = of_one_length(prompts.retrieve(texts.tolist()))
        beam = beam_search(model, queries, media, trie, 2, 5, Rule(normalisation, levels))
        exact = exact_search(model, queries, media, trie, 2, 5, Rule(normalisation, levels))
        for query in range(len(queries)):
            all_scores = brute_force(
                model, queries[query].tolist(), media, sequences, prompts.end, normalisation, levels
            )
            want = sorted(all_scores, reverse=True)[:5]
            assert exact.scores[query].tolist() == pytest.approx(want, abs=1e-4)
            for leaf, score in zip(exact.nodes[query].tolist(), want, strict=True):
                assert all_scores[int(trie.images_at(leaf)[0][2:])] == pytest.approx(score, abs=1e-4)
            sure = int((beam.scores[query] > beam.bound[query]).sum())
            assert beam.scores[query, :sure].tolist() == pytest.approx(want[:sure], abs=1e-4)
            inexact += beam.scores[query].tolist() != pytest.approx(want, abs=1e-4)
            open_ranks += 5 - sure
        worked += exact.model_rows - beam.model_rows
    assert inexact and open_ranks and worked > 0  # or the comparison could not fail


@torch.inference_mode()
def test_exact_search_with_more_places_than_leaves(parts) -> None:
    model, tokenizer = parts
    prompts = Prompts(tokenizer)
    sequences = [(4,), (5, 6), (5, 7, 8)]
    trie = Trie.build(sequences, [0, 1, 2], ["a", "b", "c"], prompts.end)
    media = model.resample(torch.zeros(1, 5, 16))
    found = exact_search(model, torch.tensor(prompts.retrieve(["x"])), media, trie, 1, 10)
    assert int((found.nodes >= 0).sum()) == 3


def searched(parts, per_image: int, number: int, **settings) -> tuple[dict, Counts, dict]:
    """Run lines and counts of `generative_search` over random identifiers, and every image's best score by brute force."""
    model, tokenizer = parts
    prompts, rng = Prompts(tokenizer), np.random.default_rng([per_image, number])
    bodies = sorted({tuple(map(int, rng.choice(50, size=3))) for _ in range(3 * per_image * number)})
    bodies = [bodies[i] for i in rng.permutation(len(bodies))[: per_image * number]]
    images = [f"im{i // per_image}" for i in range(len(bodies))]
    table = pd.DataFrame({"image_id": images, "split": "test", "tokens": bodies, "text": ""})
    names = list(dict.fromkeys(images))
    trie = Trie.build(bodies, [names.index(image) for image in images], names, prompts.end)
    assigned = IdentifierTables(Path(), "semantic", table, [], [])
    media = model.resample(torch.zeros(1, 5, 16))
    prompt = prompts.retrieve(["a child holds an umbrella"])
    found = generative_search(model, prompt, media, trie, assigned, Retrieve(**settings), ["q"])
    best: dict[str, float] = {}
    for image, score in zip(images, brute_force(model, prompt[0], media, bodies, prompts.end), strict=True):
        best[image] = max(score, best.get(image, -np.inf))
    return dict(found.answers["q"]), found.counts, best


@torch.inference_mode()
def test_exact_search_ranks_images_of_many_identifiers_as_brute_force_does(parts) -> None:
    found, counts, best = searched(parts, per_image=16, number=20, search="exact", beams=4, depth=10)
    want = dict(sorted(best.items(), key=lambda pair: -pair[1])[:10])
    assert list(found) == list(want)
    assert list(found.values()) == pytest.approx(list(want.values()), abs=1e-4)
    assert counts.certified == 1.0 and counts.certified_ranks == [1.0] * 10


@torch.inference_mode()
@pytest.mark.parametrize(("per_image", "number", "beams", "depth"), [(1, 20, 2, 10), (4, 7, 3, 7), (4, 12, 3, 3)])
def test_few_beams_do_not_shorten_the_answer(parts, per_image: int, number: int, beams: int, depth: int) -> None:
    found, counts, best = searched(parts, per_image, number, beams=beams, depth=depth, leaves_at_once=0)
    assert len(found) == depth and counts.beams_used == max(beams, depth) * per_image
    assert all(best[image] >= score - 1e-4 for image, score in found.items())


@torch.inference_mode()
def test_a_gallery_smaller_than_the_depth_is_certified_whole(parts) -> None:
    found, counts, _ = searched(parts, per_image=1, number=3, search="exact", beams=2, depth=10)
    assert len(found) == 3 and counts.certified_ranks == [1.0] * 3 and counts.certified == 1.0


@torch.inference_mode()
def test_a_sum_over_identifiers_is_never_certified(parts) -> None:
    _, counts, _ = searched(parts, per_image=3, number=5, search="exact", merge="logsumexp", beams=4, depth=5)
    assert counts.certified == 0.0
