"""What a scheme learns from the tower, against loops over captions, tokens and images written from the definition."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from grace.config import Flamingo, ScratchLanguageModel
from grace.embeddings import Embeddings
from grace.identifiers.base import read_tokenizer
from grace.model.atomic_head import AtomicHead
from grace.model.flamingo import add_tokens, build
from grace.prompts import Prompts
from grace.training import distillation
from grace.training.distillation import NO_TOKEN, Teacher
from grace.training.objectives import classification_loss, generation_loss
from grace.training.samples import PAD_IMAGE, Samples, collate

NEW = 12
TEMPERATURE = 0.2
IDENTIFIERS = [[0, 3], [0, 4], [1, 5, 3], [1, 5, 4], [1, 5], [2, 6], [2, 7, 8]]
TEXTS = ["two dogs", "a man riding a horse outside a barn", "rain", "people sit beside the wide river"]
OWN = [2, 0, 4, 6]  # their identifiers


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder):
    return read_tokenizer(tokenizer_folder)


@pytest.fixture(scope="module")
def vectors() -> Embeddings:
    rng = np.random.default_rng(0)
    return Embeddings(
        rng.normal(size=(9, 8)).astype("f4"), rng.normal(size=(9, 4, 16)).astype("f2"), np.zeros((1, 4, 16), "f2")
    )


@pytest.fixture(scope="module")
def model(tokenizer):
    small = ScratchLanguageModel(width=32, layers=2, heads=2, max_length=96)
    made = build(Flamingo(scratch=small, perceiver_latents=3), tokenizer, visual_width=16).eval()
    add_tokens(made, len(tokenizer) + NEW, 0)
    return made


def unit(rng, *shape: int) -> np.ndarray:
    made = rng.normal(size=shape).astype("f4")
    return made / np.linalg.norm(made, axis=-1, keepdims=True)


@pytest.fixture(scope="module")
def world(tokenizer):
    """Identifiers as token ids, the teacher, and a batch of pseudo-queries with the tower's embeddings."""
    rng, prompts = np.random.default_rng(1), Prompts(tokenizer)
    named = [[len(tokenizer) + symbol for symbol in identifier] for identifier in IDENTIFIERS]
    targets = prompts.identifier_targets(named)
    longest = max(map(len, targets))
    paths = torch.tensor([target + [NO_TOKEN] * (longest - len(target)) for target in targets])
    guide = Teacher(0.7, lambda texts: unit(rng, len(texts), 8), TEMPERATURE, torch.from_numpy(unit(rng, 7, 8)), paths)
    samples = Samples(
        prompts.retrieve(TEXTS), [targets[row] for row in OWN], np.full(4, PAD_IMAGE), np.empty(0, dtype=np.int64),
        guide.embed(TEXTS),
    )  # fmt: skip
    return targets, guide, samples


def by_hand(model, batch, targets, guide, kept: int) -> float:
    """The cross-entropy of the targets and, weighted, that of the tower's distribution over next tokens, in float64."""
    hidden, _ = model.hidden_states(batch.input_ids, model.resample(batch.visual)[batch.image_of], batch.attention_mask)
    total = 0.0
    for row, own in enumerate(OWN):
        length = int(batch.attention_mask[row].sum())
        target = targets[own]
        start = length - len(target)  # where the word `id` stands, which predicts the first token
        scores = (batch.teacher[row] @ guide.gallery_GD.T).double().numpy() / TEMPERATURE
        nearest = sorted(range(len(targets)), key=lambda image: -scores[image])[:kept]
        share = {image: math.exp(scores[image]) for image in nearest}
        word = int(batch.input_ids[row, start])
        for depth, token in enumerate([word, *target]):
            logits = model.head(hidden[row, start - 1 + depth]).double().log_softmax(-1)
            total -= logits[token].item()
            begun = target[: depth - 1]
            alive = [image for image in nearest if depth and targets[image][: len(begun)] == begun]
            alive = [image for image in alive if len(targets[image]) > len(begun)]
            for image in alive:
                part = share[image] / sum(share[other] for other in alive)
                total -= guide.weight * part * logits[targets[image][len(begun)]].item()
    return total


@pytest.mark.parametrize("chunk", [0, 3])
@pytest.mark.parametrize("kept", [100, 2])
def test_identifiers_learn_the_next_tokens_of_the_tower(tokenizer, vectors, model, world, monkeypatch, kept, chunk):
    monkeypatch.setattr(distillation, "NEAREST", kept)
    targets, guide, samples = world
    batch = collate(samples, np.arange(4), vectors, tokenizer.pad_token_id, "pseudo", 1)
    loss, terms = generation_loss(model, batch, chunk=chunk, teacher=guide)
    assert loss.item() == pytest.approx(by_hand(model, batch, targets, guide, kept), rel=1e-5)
    plain, same = generation_loss(model, batch, chunk=chunk)
    assert terms == same and loss.item() > plain.item() * 1.05, "the tower says nothing"


def test_the_weights_are_a_distribution_wherever_an_identifier_begins_alike(tokenizer, vectors, world):
    targets, guide, samples = world
    batch = collate(samples, np.arange(4), vectors, tokenizer.pad_token_id, "pseudo", 1)
    _, weights = guide.soft_targets(batch)
    words = torch.tensor([place == 0 for row in OWN for place in range(len(targets[row]) + 1)])
    assert torch.allclose(weights.sum(1), torch.where(words, 0.0, guide.weight))
    assert not (weights < 0).any()


def test_samples_without_the_tower_s_answers_learn_nothing_from_it(tokenizer, vectors, model, world):
    _, guide, samples = world
    batch = collate(replace(samples, teacher=None), np.arange(4), vectors, tokenizer.pad_token_id, "retrieve", 1)
    assert torch.equal(generation_loss(model, batch, teacher=guide)[0], generation_loss(model, batch)[0])


def test_atomic_draws_its_query_vectors_to_the_tower_s(tokenizer, vectors, model, world):
    _, guide, samples = world
    labelled = replace(samples, targets=[[] for _ in OWN], labels=np.array(OWN))
    batch = collate(labelled, np.arange(4), vectors, tokenizer.pad_token_id, "retrieve", 1)
    torch.manual_seed(0)
    model.atomic_head = AtomicHead(32, torch.randn(7, 8))
    try:
        loss, terms = classification_loss(model, batch, teacher=guide)
        plain, _ = classification_loss(model, batch)
        hidden, _ = model.hidden_states(
            batch.input_ids, model.resample(batch.visual)[batch.image_of], batch.attention_mask
        )
        apart = 0.0
        for row in range(4):
            query = model.atomic_head.projection(hidden[row, batch.last[row]])
            apart += 1 - F.cosine_similarity(query, batch.teacher[row], dim=0).item()
        assert terms == 4 and (loss - plain).item() == pytest.approx(0.7 * apart, rel=1e-4)
    finally:
        del model.atomic_head
