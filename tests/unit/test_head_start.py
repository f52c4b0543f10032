"""The regression that starts the atomic head's projection, against least squares done one sample at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from grace.identifiers.base import read_tokenizer
from grace.model.atomic_head import AtomicHead
from grace.model.batches import PAD_IMAGE, Samples
from grace.model.flamingo import build
from grace.model.prompts import Prompts
from grace.towers.embeddings import Embeddings
from grace.training import head_start
from grace.training.head_start import start_projection
from grace.training.pools import Pool
from grace.workflow.config import Flamingo, ScratchLanguageModel


@pytest.fixture
def world(tokenizer_folder):
    words = read_tokenizer(tokenizer_folder)
    scratch = ScratchLanguageModel(width=32, layers=2, heads=2, max_length=96)
    model = build(Flamingo(scratch=scratch, perceiver_latents=3), words, visual_width=16)
    rng = np.random.default_rng(0)
    vectors = Embeddings(
        rng.normal(size=(54, 8)).astype("f4"), rng.normal(size=(54, 4, 16)).astype("f2"), np.zeros((1, 4, 16), "f2")
    )
    model.atomic_head = AtomicHead(32, torch.from_numpy(vectors.vectors[:40].copy()))
    prompts = Prompts(words)
    texts = [
        f"a {colour} {thing} {number}"
        for number in range(5)
        for colour in ("red", "blue")
        for thing in ("dog", "cat sits")
    ]
    none = [[] for _ in texts]
    retrieve = Samples(prompts.retrieve(texts), none, np.full(20, PAD_IMAGE), np.arange(20))
    memorize = Samples([prompts.memorize("atomic")] * 20, none, np.arange(20, 40), np.arange(20, 40))
    pools = [Pool("memorize", memorize, 4), Pool("retrieve", retrieve, 4)]
    return model, pools, vectors, words.pad_token_id


@torch.no_grad()
def test_the_projection_is_the_ridge_regression(world, monkeypatch):
    model, pools, vectors, pad = world
    monkeypatch.setattr(head_start, "BATCH", 7)
    start_projection(model, pools, vectors, pad, count=40, seed=0)
    assert model.training
    hidden, targets = [], []
    model.eval()
    for pool in pools:
        for row in range(20):
            ids = torch.tensor([pool.samples.prompts[row]])
            media = model.resample(vectors.visual([pool.samples.images[row]]))
            hidden.append(model.hidden_states(ids, media)[0][0, -1].double().numpy())
            wanted = vectors.vectors[pool.samples.labels[row]].astype(np.float64)
            targets.append(wanted / np.linalg.norm(wanted))
    rows = np.stack(hidden)
    strength = np.sqrt(head_start.RIDGE * (rows**2).sum(0).mean())
    padded = np.concatenate([rows, strength * np.eye(32)])  # ridge regression as plain least squares
    expected = np.linalg.lstsq(padded, np.concatenate([np.stack(targets), np.zeros((32, 8))]), rcond=None)[0]
    np.testing.assert_allclose(model.atomic_head.projection.weight.T, expected, atol=1e-5)


@torch.no_grad()
def test_samples_are_drawn_by_the_seed_in_the_proportion_of_the_batches(world, monkeypatch):
    model, pools, vectors, pad = world
    seen = []
    plain = head_start._hidden
    monkeypatch.setattr(head_start, "_hidden", lambda *given: (seen.append(given[2].tolist()), plain(*given))[1])
    weights = []
    for seed in (0, 0, 1):
        start_projection(model, [pools[0], Pool("retrieve", pools[1].samples, 12)], vectors, pad, count=16, seed=seed)
        weights.append(model.atomic_head.projection.weight.clone())
    assert [len(rows) for rows in seen] == [4, 12] * 3
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
