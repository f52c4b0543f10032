"""What a scheme learns from the tower, against loops over captions, images and tokens written from the definition."""

from __future__ import annotations

import math
import zlib
from collections import defaultdict
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

import grace.towers
from grace.data.tables import load_dataset
from grace.identifiers.base import read_tokenizer
from grace.model.atomic_head import AtomicHead
from grace.model.batches import PAD_IMAGE, Samples, collate
from grace.model.flamingo import add_tokens, build
from grace.model.prompts import Prompts
from grace.system.errors import GraceError
from grace.system.weights import weights_digest
from grace.towers.embeddings import Embeddings
from grace.training import distillation
from grace.training.distillation import NONE, Gallery, Teacher, teach
from grace.training.objectives import classification_loss, generation_loss
from grace.training.pools import scheme_pools
from grace.workflow.config import Flamingo, ScratchLanguageModel, Training

NEW = 12
TEMPERATURE = 0.2
IDENTIFIERS = [[0, 3], [0, 4], [1, 5, 3], [1, 5, 4], [1, 5], [2, 6], [2, 7, 8]]
IMAGE_OF = [3, 0, 1, 1, 1, 2, 3]  # some images have several, and images come in another order
TEXTS = ["two dogs", "a man riding a horse outside a barn", "rain", "people sit beside the wide river"]
OWN = [2, 0, 4, 6]  # their identifiers
ITSELF = {3: 2, 5: 1}  # identifiers that are a caption: one of the third's own image, and the only one of its image


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder):
    return read_tokenizer(tokenizer_folder)


@pytest.fixture(scope="module")
def vectors() -> Embeddings:
    rng = np.random.default_rng(0)
    return Embeddings(
        rng.normal(size=(54, 8)).astype("f4"), rng.normal(size=(54, 4, 16)).astype("f2"), np.zeros((1, 4, 16), "f2")
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
    """Identifiers as token ids, the teacher, and samples of pseudo-queries with the tower's embeddings."""
    rng, prompts = np.random.default_rng(1), Prompts(tokenizer)
    targets = prompts.identifier_targets([[len(tokenizer) + one for one in identifier] for identifier in IDENTIFIERS])
    longest = max(map(len, targets))
    gallery = Gallery(
        images_GD=torch.from_numpy(unit(rng, 4, 8)),
        identifiers_GM=torch.tensor([[1, NONE, NONE], [2, 3, 4], [5, NONE, NONE], [0, 6, NONE]]),
        paths_IP=torch.tensor([target + [NONE] * (longest - len(target)) for target in targets]),
        caption_I=torch.tensor([ITSELF.get(row, NONE) for row in range(len(targets))]),
    )
    samples = Samples(
        prompts.retrieve(TEXTS), [targets[row] for row in OWN], np.full(4, PAD_IMAGE), np.empty(0, dtype=np.int64),
        unit(rng, 4, 8), np.arange(4),
    )  # fmt: skip
    return targets, Teacher(0.7, TEMPERATURE, gallery), samples


def says(
    scores: dict, identifiers: list[tuple], begun: list[int], kept: int = distillation.NEAREST
) -> dict[int, float]:
    """What the tower says of the token after `begun`: token to probability, empty where no identifier goes on so.

    `scores`: logits of images; `identifiers`: (image, its tokens, whether it is not the caption itself)."""
    nearest = sorted(scores, key=lambda image: -scores[image])[:kept]
    highest = max(scores.values())
    mass: dict[int, float] = defaultdict(float)
    for image in nearest:
        others = [tokens for owner, tokens, other in identifiers if owner == image and other]
        taught = others or [tokens for owner, tokens, _ in identifiers if owner == image]
        for tokens in taught:
            if tokens[: len(begun)] == begun and len(tokens) > len(begun):
                mass[tokens[len(begun)]] += math.exp(scores[image] - highest) / len(taught)
    total = sum(mass.values())
    return {token: share / total for token, share in mass.items()}


def by_hand(model, batch, targets, guide, kept: int) -> float:
    """The cross-entropy of the targets and, weighted, that of the tower's distribution over next tokens, in float64."""
    hidden, _ = model.hidden_states(batch.input_ids, model.resample(batch.visual)[batch.image_of], batch.attention_mask)
    total = 0.0
    for row, own in enumerate(OWN):
        length = int(batch.attention_mask[row].sum())
        target = targets[own]
        start = length - len(target)  # where the word `id` stands, which predicts the first token
        scores = dict(enumerate((batch.teacher[row] @ guide.gallery.images_GD.T).double().numpy() / TEMPERATURE))
        known = [(IMAGE_OF[place], tokens, ITSELF.get(place) != row) for place, tokens in enumerate(targets)]
        word = int(batch.input_ids[row, start])
        for depth, token in enumerate([word, *target]):
            logits = model.head(hidden[row, start - 1 + depth]).double().log_softmax(-1)
            total -= logits[token].item()
            for next_token, part in (says(scores, known, target[: depth - 1], kept) if depth else {}).items():
                total -= guide.weight * part * logits[next_token].item()
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


@pytest.mark.parametrize("temperature", [TEMPERATURE, 1e-3])
def test_the_weights_are_a_distribution_wherever_an_identifier_begins_alike(tokenizer, vectors, world, temperature):
    """At a low temperature the shares of all images that begin so may be too small for float32: they still add up."""
    targets, guide, samples = world
    cold = replace(guide, temperature=temperature)
    batch = collate(samples, np.arange(4), vectors, tokenizer.pad_token_id, "pseudo", 1)
    shares = (batch.teacher @ guide.gallery.images_GD.T / temperature).softmax(1)
    assert temperature == TEMPERATURE or (shares == 0).any(), "no share is too small: this shows nothing"
    _, weights = cold.soft_targets(batch)
    words = torch.tensor([place == 0 for row in OWN for place in range(len(targets[row]) + 1)])
    assert torch.allclose(weights.sum(1), torch.where(words, 0.0, guide.weight))
    assert not (weights < 0).any()


def test_an_image_with_many_identifiers_makes_no_table_of_as_many_for_each(tokenizer, vectors, world):
    """Candidates are the most that a caption has, and tokens those of the batch's identifiers; what is taught stays the same."""
    _, guide, samples = world
    gallery = guide.gallery
    padded = replace(
        guide,
        gallery=replace(
            gallery,
            identifiers_GM=F.pad(gallery.identifiers_GM, (0, 500), value=NONE),
            paths_IP=F.pad(gallery.paths_IP, (0, 100), value=NONE),
        ),
    )
    batch = collate(samples, np.arange(4), vectors, tokenizer.pad_token_id, "pseudo", 1)
    for plain, same in zip(guide.soft_targets(batch), padded.soft_targets(batch), strict=True):
        assert torch.equal(plain, same)
    assert plain.shape[1] == 7 and guide._candidates(batch, 2)[0].shape == (4, 7, 2)


def test_samples_without_the_tower_s_answers_learn_nothing_from_it(tokenizer, vectors, model, world):
    _, guide, samples = world
    untaught = replace(samples, teacher=None, captions=None)
    batch = collate(untaught, np.arange(4), vectors, tokenizer.pad_token_id, "retrieve", 1)
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


class Tower:
    """A tower whose answer to a text is drawn from the text alone."""

    temperature = TEMPERATURE

    def __init__(self) -> None:
        torch.manual_seed(3)
        self.model, self.read = torch.nn.Linear(2, 3), []

    def encode_text(self, texts: list[str]) -> torch.Tensor:
        self.read += texts
        return torch.from_numpy(np.stack([unit(np.random.default_rng(zlib.crc32(text.encode())), 8) for text in texts]))

    @property
    def said(self) -> dict:
        """What encode.json says of it."""
        return {"kind": "stub", "weights_sha256": weights_digest(self.model)}


@pytest.fixture
def taught(tiny, with_val, tokenizer, vectors, monkeypatch):
    """A function: the identifiers of a scheme, the stub of a tower, the teacher and the pools that `teach` makes of it."""
    monkeypatch.setattr(distillation, "ENCODED", 7)

    def run(scheme: str, encoded_by: dict | None = None, **keys):
        tower, tables, assigned, prompts = Tower(), load_dataset(tiny["dataset"]), with_val(scheme), Prompts(tokenizer)
        monkeypatch.setattr(grace.towers, "open_tower", lambda folder: tower)
        asked = Training(**{"memorize_batch": 4, "retrieve_batch": 8, "pseudo_query_share": 0.5, **keys})
        pools = scheme_pools(tables, assigned, tiny["pseudo_queries"], prompts, asked, 96)
        guide, pools = teach(pools, 0.7, tiny["dataset"], encoded_by or tower.said, assigned, tables, vectors, prompts)
        return SimpleNamespace(
            assigned=assigned, tower=tower, guide=guide, pools={pool.kind: pool for pool in pools}, tables=tables
        )

    return run


@pytest.mark.parametrize("scheme", ["numeric", "semantic", "structured"])
def test_what_is_taught_is_the_tower_s_ranking_of_the_gallery_in_identifiers(taught, tokenizer, vectors, scheme):
    """From the tables: images of val and test, with all identifiers of each, but for the one that is the caption itself."""
    made = taught(scheme)
    table = made.assigned.table[made.assigned.table["split"] != "train"]
    assert set(table["split"]) == {"val", "test"}
    assert (table["image_id"].value_counts().max() > 1) == (scheme == "semantic")
    assert made.pools["retrieve"].samples.teacher is None and made.pools["memorize"].samples.teacher is None
    pool = made.pools["pseudo"]
    row_of = {image: row for row, image in enumerate(made.tables.images["image_id"])}
    ends = Prompts(tokenizer).identifier_targets(table["tokens"].tolist())
    rows = np.arange(0, len(pool.samples), 5)
    batch = collate(pool.samples, rows, vectors, tokenizer.pad_token_id, "pseudo", 1)
    tokens_SC, weights_SC = made.guide.soft_targets(batch)
    position, themselves = 0, 0
    for row in rows:
        text, target = pool.captions[row], pool.samples.targets[row]
        answer = made.tower.encode_text([text])[0].double().numpy()
        scores = {}
        for image in table["image_id"].unique():
            embedding = vectors.vectors[row_of[image]].astype("f8")
            scores[image] = answer @ embedding / np.linalg.norm(embedding) / TEMPERATURE
        known = [
            (image, tokens, named != text)
            for image, tokens, named in zip(table["image_id"], ends, table["text"], strict=True)
        ]
        themselves += sum(not other for _, _, other in known)
        assert not weights_SC[position].any(), "the word `id`"
        for depth in range(len(target)):
            position += 1
            found: dict[int, float] = defaultdict(float)
            for token, weight in zip(tokens_SC[position].tolist(), weights_SC[position].tolist(), strict=True):
                if weight:
                    found[token] += weight / 0.7
            assert found == pytest.approx(says(scores, known, target[:depth]), abs=1e-5), (text, depth)
        position += 1
    assert position == len(weights_SC)
    assert (themselves > 0) == (scheme == "semantic")


def test_each_caption_is_encoded_once_and_finds_its_own_answer(taught):
    """Retrieve and pseudo samples of atomic; several samples of one caption (semantic) share its answer."""
    for scheme, kinds in (("atomic", ("retrieve", "pseudo")), ("semantic", ("pseudo",))):
        made = taught(scheme)
        texts = {text for kind in kinds for text in made.pools[kind].captions}
        assert len(made.tower.read) == len(texts) > distillation.ENCODED and set(made.tower.read) == texts
        for kind in kinds:
            samples, captions = made.pools[kind].samples, made.pools[kind].captions
            assert len(captions) == len(samples)
            right = made.tower.encode_text(captions).numpy()
            assert np.array_equal(samples.teacher[samples.captions], right)
        assert (made.guide.gallery is None) == (scheme == "atomic")


def test_another_tower_and_a_teacher_of_nothing_are_errors(taught):
    with pytest.raises(GraceError, match="is not the one that encoded the images"):
        taught("numeric", encoded_by={"kind": "stub", "weights_sha256": "another"})
    with pytest.raises(
        GraceError, match="is not the one that encoded the images"
    ):  # the same weights, another activation
        taught("numeric", encoded_by={**taught("numeric").tower.said, "activation": "GELU"})
    with pytest.raises(GraceError, match=r"numeric has no pseudo-queries .*raise train\.numeric\.retrieve_batch or"):
        taught("numeric", retrieve_batch=4, pseudo_query_share=0.1)  # a batch of 0.4 samples
    with pytest.raises(GraceError, match="atomic has no captions"):
        taught("atomic", retrieve_batch=0)
