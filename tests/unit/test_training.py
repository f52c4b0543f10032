"""Samples, batches, objectives and the model's files: every fast path against a slow oracle."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from grace.data.tables import load_dataset
from grace.identifiers import identifiers
from grace.identifiers.base import load_identifiers, read_tokenizer
from grace.model.atomic_head import AtomicHead
from grace.model.batches import PAD_IMAGE, Samples, collate, media_of
from grace.model.flamingo import add_tokens, build
from grace.model.prompts import Prompts
from grace.system.errors import GraceError
from grace.system.weights import load_weights, save_weights, unique_tensors
from grace.towers.embeddings import Embeddings
from grace.training.deepspeed_engine import learning_rate_factor
from grace.training.objectives import classification_loss, generation_loss
from grace.training.pools import scheme_pools
from grace.training.sampler import WINDOW, Sampler
from grace.workflow.config import Flamingo, ScratchLanguageModel, Training

SMALL = ScratchLanguageModel(width=32, layers=2, heads=2, max_length=96)


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder):
    return read_tokenizer(tokenizer_folder)


@pytest.fixture
def model(tokenizer):
    return build(Flamingo(scratch=SMALL, perceiver_latents=3), tokenizer, visual_width=16).eval()


@pytest.fixture(scope="module")
def vectors() -> Embeddings:
    rng = np.random.default_rng(0)
    return Embeddings(
        rng.normal(size=(54, 8)).astype("f4"), rng.normal(size=(54, 4, 16)).astype("f2"), np.zeros((1, 4, 16), "f2")
    )


def some_samples(prompts: Prompts) -> Samples:
    texts = ["two dogs", "a man riding a horse outside a barn", "rain", "people sit beside the wide river"]
    targets = prompts.identifier_targets([[5], [6, 7, 8], [9, 10], [11]])
    images = np.array([PAD_IMAGE, 3, PAD_IMAGE, 7])
    return Samples(prompts.retrieve(texts), targets, images, np.empty(0, dtype=np.int64))


def test_sampler_sees_every_sample_once_an_epoch() -> None:
    lengths = np.random.default_rng(0).integers(3, 40, size=8 * WINDOW)
    sampler = Sampler(lengths, 4, (0, 1), rank=0, world=2)
    other = Sampler(lengths, 4, (0, 1), rank=1, world=2)
    seen = np.concatenate([s.rows(step) for step in range(WINDOW) for s in (sampler, other)])
    assert sorted(seen) == list(range(8 * WINDOW))
    assert not np.array_equal(sampler.rows(0), sampler.rows(WINDOW))


def test_sampler_is_a_pure_function_of_the_step() -> None:
    lengths = np.arange(50)
    forward = [Sampler(lengths, 3, (5,)).rows(step).tolist() for step in range(20)]
    one = Sampler(lengths, 3, (5,))
    backward = [one.rows(step).tolist() for step in reversed(range(20))]
    assert forward == backward[::-1]
    assert forward != [Sampler(lengths, 3, (6,)).rows(step).tolist() for step in range(20)]


def test_defect_15_the_label_mask_equals_a_loop_over_tokens(tokenizer, vectors) -> None:
    prompts = Prompts(tokenizer)
    samples = some_samples(prompts)
    batch = collate(samples, np.arange(4), vectors, tokenizer.pad_token_id, "retrieve", 1)
    following = iter(batch.next_ids.tolist())
    for row in range(4):
        whole = samples.prompts[row] + samples.targets[row]
        for place in range(batch.input_ids.shape[1]):
            inside = place < len(whole) - 1
            assert batch.input_ids[row, place] == (whole[place] if inside else tokenizer.pad_token_id)
            wanted = inside and place + 1 >= len(samples.prompts[row]) - 1
            assert bool(batch.supervised[row, place]) == wanted
            if wanted:
                assert next(following) == whole[place + 1]
    assert next(following, None) is None


def test_generation_loss_equals_the_full_vocabulary_loss_at_every_position(tokenizer, vectors, model) -> None:
    prompts = Prompts(tokenizer)
    samples = some_samples(prompts)
    batch = collate(samples, np.arange(4), vectors, tokenizer.pad_token_id, "retrieve", 1)
    total, terms = generation_loss(model, batch)
    slow, count = 0.0, 0
    for row in range(4):  # one sequence at a time, no padding, its own image
        whole = torch.tensor([samples.prompts[row] + samples.targets[row]])
        media = model.resample(vectors.visual([samples.images[row]]))
        labels = whole[:, 1:].clone()
        labels[:, : len(samples.prompts[row]) - 2] = -100
        logits = model.head(model.hidden_states(whole[:, :-1], media)[0])
        slow += F.cross_entropy(logits[0], labels[0], ignore_index=-100, reduction="sum").item()
        count += int((labels >= 0).sum())
    assert terms.item() == count
    assert total.item() == pytest.approx(slow, rel=1e-5)


def test_defect_13_the_pad_image_is_resampled_once(tokenizer, vectors, model) -> None:
    samples = some_samples(Prompts(tokenizer))
    batch = collate(samples, np.array([0, 2, 0, 2]), vectors, tokenizer.pad_token_id, "retrieve", 1)
    assert len(batch.visual) == 1
    each = model.resample(vectors.visual([PAD_IMAGE] * 4))
    assert torch.allclose(media_of(model, batch), each, atol=1e-6)


@torch.no_grad()
def test_hidden_states_with_a_cache_equal_those_without(tokenizer, vectors, model) -> None:
    from transformers import DynamicCache

    prompt = Prompts(tokenizer).retrieve(["two dogs run"])[0]
    ids = torch.tensor([[*prompt, 5, 6, 7]])
    media = model.resample(vectors.visual([2]))
    whole, _ = model.hidden_states(ids, media)
    cache = DynamicCache()
    parts = [model.hidden_states(ids[:, : len(prompt)], media, past_key_values=cache)[0]]
    parts += [
        model.hidden_states(ids[:, i : i + 1], media, past_key_values=cache)[0]
        for i in range(len(prompt), ids.shape[1])
    ]
    assert torch.allclose(torch.cat(parts, 1), whole, atol=1e-4)
    blind, _ = model.hidden_states(ids, torch.zeros_like(media))
    assert not torch.allclose(blind, whole, atol=1e-4), "the language model does not see the image"


def test_defect_08_atomic_reads_the_last_real_token_and_is_normalised(tokenizer, vectors, model) -> None:
    classes = torch.randn(6, 8, generator=torch.Generator().manual_seed(0)) * torch.arange(1, 7)[:, None]
    model.atomic_head = AtomicHead(32, classes)
    samples = some_samples(Prompts(tokenizer))
    samples = Samples(samples.prompts, [[]] * 4, samples.images, np.array([0, 1, 2, 3]))
    batch = collate(samples, np.arange(4), vectors, tokenizer.pad_token_id, "retrieve", 1)
    alone = []
    for row in range(4):
        one = collate(samples, np.array([row]), vectors, tokenizer.pad_token_id, "retrieve", 1)
        alone.append(classification_loss(model, one)[0].item())
    total, terms = classification_loss(model, batch)
    assert total.item() == pytest.approx(sum(alone), rel=1e-5) and terms == 4
    total.backward()
    assert model.atomic_head.projection.weight.grad.abs().sum() > 0
    hidden = torch.randn(2, 32)
    assert torch.allclose(AtomicHead(32, classes * 7, 0.07).classes / 7, classes)
    head, scaled = AtomicHead(32, classes), AtomicHead(32, classes * 7)
    scaled.load_state_dict({**head.state_dict(), "classes": classes * 7})
    assert torch.allclose(head(hidden), scaled(hidden), atol=1e-4)
    assert head(hidden.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("train_classes", [False, True])
def test_the_atomic_head_stays_fp32_when_the_model_is_cast(train_classes) -> None:
    classes, hidden = torch.randn(6, 8), torch.randn(3, 32)
    head = AtomicHead(32, classes, 0.07, train_classes)
    before = {name: value.clone() for name, value in head.state_dict().items()}
    wanted = head(hidden)
    model = torch.nn.ModuleDict({"head": head, "rest": torch.nn.Linear(2, 2)})
    for cast in (model.bfloat16, model.half, lambda: model.to(torch.bfloat16), model.double, model.float):
        cast()
        assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())
        assert torch.equal(head(hidden), wanted)
    assert model.bfloat16()["rest"].weight.dtype == torch.bfloat16
    moved = model.to("meta")["head"]
    assert {value.device.type for value in (*moved.parameters(), *moved.buffers())} == {"meta"}
    assert {name for name, value in moved.named_parameters() if value.requires_grad} == {
        "projection.weight", "log_scale", *(["classes"] if train_classes else [])
    }  # fmt: skip


def test_the_atomic_head_computes_with_the_exact_values_and_its_parameters_get_the_gradients() -> None:
    """Against a head whose parameters are the exact values: the same logits, the same gradients, on rounded parameters."""
    torch.manual_seed(0)
    exact = AtomicHead(32, torch.randn(6, 8), 0.07, train_classes=True)
    rounded = AtomicHead(32, torch.zeros(6, 8), 1.0, train_classes=True)
    values = {name: value.detach().clone() for name, value in exact.named_parameters()}
    for name, value in rounded.named_parameters():
        value.data = values[name].bfloat16()
    rounded.keep_exact(values)
    hidden, labels = torch.randn(5, 32), torch.tensor([0, 5, 2, 2, 1])
    for head in (exact, rounded):
        F.cross_entropy(head(hidden), labels).backward()
    assert torch.equal(exact(hidden), rounded(hidden)) and torch.equal(exact(hidden, labels), rounded(hidden, labels))
    assert torch.equal(rounded.class_matrix(), exact.classes) and set(rounded.exact_values()) == set(values)
    for name, value in exact.named_parameters():
        assert torch.equal(rounded.get_parameter(name).grad, value.grad.bfloat16()), name
    assert set(rounded.state_dict()) == set(exact.state_dict())


def test_defect_10_loading_is_strict(tmp_path, model) -> None:
    tensors = unique_tensors(model)
    save_weights(tmp_path / "good", tensors)
    load_weights(tmp_path / "good", model)
    some = sorted(tensors)[0]
    save_weights(tmp_path / "less", {k: v for k, v in tensors.items() if k != some})
    save_weights(tmp_path / "more", {**tensors, "stranger": torch.zeros(1)})
    save_weights(tmp_path / "shape", {**tensors, some: torch.zeros(1, 2, 3, 4, 5)})
    for name, said in (("less", "missing"), ("more", "stranger"), ("shape", "shape")):
        with pytest.raises(GraceError, match=said):
            load_weights(tmp_path / name, model)
    (tmp_path / "cut").write_bytes((tmp_path / "good").read_bytes()[:1000])
    with pytest.raises(GraceError, match="not a readable safetensors"):
        load_weights(tmp_path / "cut", model)


def test_saved_weights_are_whole_and_without_copies(tmp_path, model) -> None:
    """Every alias of open_flamingo resolves to a saved tensor, and none is saved twice."""
    tensors = unique_tensors(model)
    held = {value.data_ptr() for value in tensors.values()}
    assert len(held) == len(tensors)
    assert {value.data_ptr() for value in model.state_dict().values()} == held


def test_defect_07_identifier_tokens_are_trained(tiny, tokenizer_folder, tokenizer) -> None:
    from grace.workflow.config import Identifiers

    out = tiny["dataset"].parent / "identifiers"
    identifiers(
        scheme="structured", seed=0, dataset=tiny["dataset"], tokenizer=tokenizer_folder, embeddings=tiny["embeddings"],
        pseudo_queries=tiny["pseudo_queries"], output=out, settings=Identifiers(clusters=4, leaf_size=4),
    )  # fmt: skip
    assigned = load_identifiers(out)
    model = build(Flamingo(scratch=SMALL), tokenizer, 16)
    add_tokens(model, len(tokenizer) + len(assigned.new_tokens), seed=0)
    rows = model.lang_encoder.get_input_embeddings().weight
    largest = max(max(tokens) for tokens in assigned.table["tokens"])
    assert len(tokenizer) <= largest < len(rows)
    training = Training(memorize_batch=4, retrieve_batch=4, pseudo_query_share=0.5)
    pools = scheme_pools(
        load_dataset(tiny["dataset"]), assigned, tiny["pseudo_queries"], Prompts(tokenizer), training, 96
    )
    vectors = Embeddings(np.zeros((54, 8), "f4"), np.ones((54, 4, 16), "f2"), np.zeros((1, 4, 16), "f2"))
    for pool in pools:
        batch = collate(pool.samples, np.arange(4), vectors, tokenizer.pad_token_id, pool.kind, 1)
        generation_loss(model, batch)[0].backward()
    used = sorted({token for tokens in assigned.table["tokens"] for token in tokens[:1]})
    assert rows.grad[used].abs().sum(1).gt(0).all()


def test_no_gold_caption_of_the_gallery_is_trained_on(tiny, tokenizer_folder, tokenizer) -> None:
    from grace.workflow.config import Identifiers

    out = tiny["dataset"].parent / "identifiers"
    identifiers(
        scheme="numeric", seed=0, dataset=tiny["dataset"], tokenizer=tokenizer_folder, embeddings=None,
        pseudo_queries=None, output=out, settings=Identifiers(),
    )  # fmt: skip
    tables = load_dataset(tiny["dataset"])
    training = Training(memorize_batch=4, retrieve_batch=4, pseudo_query_share=0.5)
    assigned = load_identifiers(out)
    pools = scheme_pools(tables, assigned, tiny["pseudo_queries"], Prompts(tokenizer), training, 96)
    prompts = {tuple(ids) for pool in pools for ids in pool.samples.prompts}
    hidden = [*tables.captions_of("test")["text"], *tables.captions_of("val")["text"]]
    assert not prompts & {tuple(ids) for ids in Prompts(tokenizer).retrieve(hidden)}
    assert {pool.kind: len(pool.samples) for pool in pools} == {"memorize": 50, "retrieve": 60, "pseudo": 60}

    training = training.model_copy(update={"memorize_images": "gallery"})
    memorize = scheme_pools(tables, assigned, tiny["pseudo_queries"], Prompts(tokenizer), training, 96)[0]
    gallery = tables.images.index[tables.images["split"] == "test"]
    assert sorted(memorize.samples.images) == sorted(gallery)


def test_learning_rate() -> None:
    training = Training(steps=110, warmup_steps=10, schedule="linear")
    assert learning_rate_factor(0, training) == pytest.approx(0.1)
    assert learning_rate_factor(10, training) == 1
    assert learning_rate_factor(60, training) == pytest.approx(0.5)
    assert json.dumps(learning_rate_factor(110, training)) == "0.0"


def test_the_gradient_of_shared_images_is_the_same_every_time() -> None:
    """Many sequences share the pad image; threads that add up their gradients as they come would differ in last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        shared = torch.randn(4, 1, 64, 128, requires_grad=True)
        weight = torch.randn(256, 1, 64, 128)
        batch = SimpleNamespace(visual=shared, image_of=torch.arange(256) % 4)
        model = SimpleNamespace(resample=lambda visual: visual)
        grads = [torch.autograd.grad((media_of(model, batch) * weight).sum(), shared)[0] for _ in range(20)]
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(grad, grads[0]) for grad in grads)
