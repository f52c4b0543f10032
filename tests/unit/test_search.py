"""Trie-constrained beam search against brute force, and captions against a search without a cache."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from grace.captions.decoding import beam_captions, sample_captions
from grace.identifiers.tree import Trie
from grace.model.prompts import Prompts
from grace.retrieval.beam_search import beam_search
from grace.retrieval.best_first import exact_search
from grace.retrieval.hypotheses import AT_ONCE, Beams, Rule, log_normaliser
from grace.retrieval.last_leaves import leaves_below, most_below
from tests.unit import small_models
from tests.unit.small_models import alphabets, brute_force, of_one_length, random_set

parts = small_models.parts


@torch.inference_mode()
@pytest.mark.parametrize("normalisation", ["full", "children", "level"])
@pytest.mark.parametrize("seed", range(3))
def test_wide_search_equals_brute_force(parts, seed: int, normalisation: str) -> None:
    model, tokenizer = parts
    prompts, rng = Prompts(tokenizer), np.random.default_rng(seed)
    sequences = random_set(rng, len(tokenizer), 30)
    images = list(range(len(sequences)))
    trie = Trie.build(sequences, images, [f"im{i}" for i in images], prompts.end)
    levels = alphabets(sequences, prompts.end)
    media = model.resample(torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(seed)))
    prompt = prompts.retrieve(["two dogs run beside the river"])[0]
    want = brute_force(model, prompt, media, sequences, prompts.end, normalisation, levels)
    # More beams than leaves: the search is exhaustive.
    found = beam_search(model, torch.tensor([prompt, prompt]), media, trie, 64, 64, Rule(normalisation, levels))
    for query in range(2):
        here = found.nodes[query] >= 0
        assert int(here.sum()) == len(sequences)
        got = {
            trie.images_at(leaf)[0]: score
            for leaf, score in zip(found.nodes[query].tolist(), found.scores[query].tolist(), strict=True)
            if leaf >= 0
        }
        for image, score in zip(images, want, strict=True):
            assert got[f"im{image}"] == pytest.approx(score, abs=1e-4)
        paths = {tuple(t for t in path if t >= 0) for path in found.tokens[query][here].tolist()}
        assert paths == set(sequences)
        kept = found.scores[query][here]
        assert bool((kept[:-1] >= kept[1:]).all())


@torch.inference_mode()
def test_defect_09_the_score_is_the_plain_sum(parts) -> None:
    """No length penalty: a longer identifier is ranked by its sum, whatever its length."""
    model, tokenizer = parts
    prompts = Prompts(tokenizer)
    sequences = [(5,), (7, 8, 9, 10)]
    trie = Trie.build(sequences, [0, 1], ["short", "long"], prompts.end)
    media = model.resample(torch.zeros(1, 5, 16))
    prompt = prompts.retrieve(["a man"])[0]
    want = brute_force(model, prompt, media, sequences, prompts.end)
    found = beam_search(model, torch.tensor([prompt]), media, trie, 4, 4)
    got = [trie.images_at(leaf)[0] for leaf in found.nodes[0].tolist() if leaf >= 0]
    assert got == [name for _, name in sorted(zip(want, ["short", "long"], strict=True), reverse=True)]
    assert found.scores[0, :2].tolist() == pytest.approx(sorted(want, reverse=True), abs=1e-4)


@torch.inference_mode()
def test_an_image_that_all_sequences_share_may_come_once(parts) -> None:
    model, tokenizer = parts
    prompts = of_one_length(Prompts(tokenizer).retrieve(["two dogs", "a child holds an umbrella"]))
    media = model.resample(torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(3)))
    each, _ = model.hidden_states(prompts, media[:1].repeat(2, 1, 1, 1))
    once, _ = model.hidden_states(prompts, media[:1])
    assert torch.allclose(each, once, atol=1e-5)
    other, _ = model.hidden_states(prompts, media)
    assert torch.allclose(other[0], once[0], atol=1e-5) and not torch.allclose(other[1], once[1], atol=1e-3)


@torch.inference_mode()
def test_one_leaf_and_few_beams(parts) -> None:
    model, tokenizer = parts
    prompts = Prompts(tokenizer)
    trie = Trie.build([(4, 4, 4)], [0], ["only"], prompts.end)
    media = model.resample(torch.zeros(1, 5, 16))
    found = beam_search(model, torch.tensor(prompts.retrieve(["x"])), media, trie, 10, 10)
    assert (found.nodes >= 0).sum() == 1 and trie.images_at(int(found.nodes[0, 0])) == ["only"]


@torch.inference_mode()
def test_narrow_search_gives_true_scores(parts) -> None:
    """With few beams the answers may be others, but each one's score is that of brute force."""
    model, tokenizer = parts
    prompts, rng = Prompts(tokenizer), np.random.default_rng(9)
    sequences = random_set(rng, len(tokenizer), 40)
    trie = Trie.build(sequences, list(range(len(sequences))), [str(i) for i in range(len(sequences))], prompts.end)
    media = model.resample(torch.zeros(1, 5, 16))
    prompt = prompts.retrieve(["a child"])[0]
    want = brute_force(model, prompt, media, sequences, prompts.end)
    found = beam_search(model, torch.tensor([prompt]), media, trie, 2, 5)
    for leaf, score in zip(found.nodes[0].tolist(), found.scores[0].tolist(), strict=True):
        if leaf >= 0:
            assert score == pytest.approx(want[int(trie.images_at(leaf)[0])], abs=1e-4)


@torch.inference_mode()
def test_captions_are_seeded_and_scored_truly(parts) -> None:
    model, tokenizer = parts
    prompts = Prompts(tokenizer)
    media = model.resample(torch.randn(6, 5, 16, generator=torch.Generator().manual_seed(0)))
    draw = [sample_captions(model, prompts, media, 1.0, 40, torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert draw[0] == draw[1] != draw[2]
    # As many beams as tokens: after two steps the best ended captions are those of all two-token captions.
    wide = len(tokenizer)
    best = beam_captions(model, prompts, media[:1], wide, 2)
    ended = [[prompts.end], *([t, prompts.end] for t in range(wide) if t not in tokenizer.all_special_ids)]
    want = sorted(brute_force_captions(model, prompts, media[:1], ended), reverse=True)
    got = [score for _, _, score in best]
    assert got and got == pytest.approx(want[: len(got)], abs=1e-3)


def brute_force_captions(model, prompts, media, targets) -> list[float]:
    barred = [t for t in prompts.tokenizer.all_special_ids if t != prompts.end]
    scores = []
    for target in targets:
        ids = torch.tensor([[*prompts.caption(), *target]])
        hidden, _ = model.hidden_states(ids, media)
        logits = model.head(hidden[0, len(prompts.caption()) - 1 : -1]).float()
        logits[:, barred] = float("-inf")
        scores.append(logits.log_softmax(-1)[torch.arange(len(target)), target].sum().item())
    return scores


@pytest.mark.parametrize("shape", [(3, 5, 1000), (2, 3, AT_ONCE // 4), (2, 1, AT_ONCE + 1)])
def test_the_normaliser_in_pieces_is_the_same_to_the_bit(shape) -> None:
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 9
    logits[0, 0, ::2] = -torch.inf
    assert torch.equal(log_normaliser(logits), logits.logsumexp(-1))
    turned = logits.transpose(0, 1)  # not contiguous
    assert torch.equal(log_normaliser(turned), turned.logsumexp(-1))


@torch.inference_mode()
@pytest.mark.parametrize("lengths", [(1, 4), (4, 4)])
def test_leaves_at_once_have_the_scores_of_brute_force_and_are_no_worse(parts, lengths) -> None:
    model, tokenizer = parts
    prompts, fewer = Prompts(tokenizer), 0
    for seed in range(6):
        rng = np.random.default_rng([seed, 8])
        sequences = random_set(rng, len(tokenizer), 50, lengths)
        trie = Trie.build(sequences, np.arange(len(sequences)), [str(i) for i in range(len(sequences))], prompts.end)
        media = model.resample(torch.randn(1, 5, 16, generator=torch.Generator().manual_seed(seed)))
        queries = of_one_length(prompts.retrieve(["a man", "two dogs run"]))
        plain = beam_search(model, queries, media, trie, 3, 6)
        found = beam_search(model, queries, media, trie, 3, 6, leaves_at_once=12)
        everything = beam_search(model, queries, media, trie, 3, len(sequences), leaves_at_once=10**6)
        exact = exact_search(model, queries, media, trie, 3, 6, leaves_at_once=12)
        for query in range(2):
            want = brute_force(model, queries[query].tolist(), media, sequences, prompts.end)
            for node, score in zip(found.nodes[query].tolist(), found.scores[query].tolist(), strict=True):
                assert node < 0 or score == pytest.approx(want[int(trie.images_at(node)[0])], abs=1e-4)
            assert everything.scores[query].tolist() == pytest.approx(sorted(want, reverse=True), abs=1e-4)
            assert exact.scores[query].tolist() == pytest.approx(sorted(want, reverse=True)[:6], abs=1e-4)
            assert bool((found.scores[query] >= plain.scores[query] - 1e-4).all())
            for path, node in zip(found.tokens[query].tolist(), found.nodes[query].tolist(), strict=True):
                assert node < 0 or trie.walk([token for token in path if token >= 0]) == node
        assert float(everything.bound.max()) == -np.inf  # nothing was pruned
        fewer += len(sequences) > 12
    assert fewer == 6


def test_the_room_without_asking_holds_whatever_the_beams_are() -> None:
    for seed, lengths in enumerate([(1, 4), (4, 4), (2, 6)]):
        rng = np.random.default_rng(seed)
        sequences = random_set(rng, 60, 80, lengths)
        trie = Trie.build(sequences, np.arange(len(sequences)), [str(i) for i in range(len(sequences))], 59)
        for depth in range(trie.depth + 1):
            begin, end = trie.levels[depth : depth + 2]
            counts = []
            for nodes in (rng.permutation(np.arange(begin, end))[:3] for _ in range(10)):
                beam = Beams(torch.zeros(1, len(nodes)), torch.tensor(nodes)[None], torch.empty(1, len(nodes), 0))
                want = sorted(
                    int(trie.walk(s)) for s in sequences
                    if len(s) >= depth and any(trie.walk(s[:depth]) == node for node in nodes)
                )  # fmt: skip
                found, origin, real = leaves_below(trie, beam, depth, len(sequences))
                assert sorted(found[real].tolist()) == want
                for node, place in zip(found[real].tolist(), origin[real].tolist(), strict=True):
                    path = [token for token in trie.paths(torch.tensor(node)).tolist() if token >= 0]
                    assert trie.walk(path[:depth]) == int(beam.nodes[0, place])
                counts.append(len(want))
            assert max(counts) <= most_below(trie, depth, 3)
        assert most_below(trie, 0, 1) == len(sequences)
