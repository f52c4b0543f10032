"""Validation: what is asked and searched, the measures, the best model, and when a training ends early."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from grace.data.tables import load_dataset
from grace.evaluation.measures import per_query
from grace.identifiers.base import read_tokenizer
from grace.model.atomic_head import AtomicHead
from grace.model.flamingo import add_tokens, build
from grace.model.prompts import Prompts
from grace.retrieval.found import Found
from grace.system.errors import GraceError
from grace.towers.embeddings import Embeddings
from grace.training import validation as module
from grace.training.pools import scheme_pools
from grace.training.validation import Validations, validation
from grace.workflow.config import Flamingo, ScratchLanguageModel, Training

ASKED = Training(validate_every=5, memorize_batch=4, retrieve_batch=4, pseudo_query_share=0.5)


@pytest.fixture
def vectors() -> Embeddings:
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(54, 4, 16)).astype("f2")
    return Embeddings(rng.normal(size=(54, 8)).astype("f4"), tokens, rng.normal(size=(1, 4, 16)).astype("f2"))


@pytest.mark.parametrize("scheme", ["numeric", "semantic", "structured", "atomic"])
def test_val_images_are_what_gallery_images_are(tiny, with_val, tokenizer_folder, vectors, scheme) -> None:
    """Memorised and with pseudo-queries; their own captions are asked and never trained on; they alone are searched."""
    tables, assigned, prompts = (
        load_dataset(tiny["dataset"]),
        with_val(scheme),
        Prompts(read_tokenizer(tokenizer_folder)),
    )
    assert set(assigned.table["split"]) == {"train", "val", "test"}
    pools = {
        pool.kind: pool.samples for pool in scheme_pools(tables, assigned, tiny["pseudo_queries"], prompts, ASKED, 96)
    }
    assert set(pools["memorize"].images) == set(range(54))
    gallery = Training(**{**ASKED.model_dump(), "memorize_images": "gallery"})
    some = scheme_pools(tables, assigned, tiny["pseudo_queries"], prompts, gallery, 96)[0].samples
    assert set(some.images) == set(tables.images.index[tables.images["split"] != "train"])
    seen = {tuple(ids) for samples in pools.values() for ids in samples.prompts}
    own = {
        split: {tuple(ids) for ids in prompts.retrieve(tables.captions_of(split)["text"].tolist())}
        for split in ("val", "test")
    }
    assert not seen & (own["val"] | own["test"])
    assert {tuple(ids) for ids in prompts.retrieve(["a val image seen 2"])} <= {
        tuple(ids) for ids in pools["pseudo"].prompts
    }
    asked = validation(ASKED, tables, assigned, vectors, prompts, 96, seed=0)
    assert {tuple(ids) for ids in asked.prompts} == own["val"]
    assert set(asked.tree.image_ids) == set(asked.gold) == {f"im{row}" for row in range(4)}


@pytest.mark.parametrize("scheme", ["numeric", "atomic"])
def test_a_model_that_is_made_to_know_is_right_and_is_left_as_it_was(
    tiny, with_val, tokenizer_folder, vectors, scheme
) -> None:
    tokenizer = read_tokenizer(tokenizer_folder)
    tables, assigned, prompts = load_dataset(tiny["dataset"]), with_val(scheme), Prompts(tokenizer)
    model = build(Flamingo(scratch=ScratchLanguageModel(width=32, layers=2, heads=2)), tokenizer, 16)
    add_tokens(model, len(tokenizer) + len(assigned.new_tokens), seed=0)
    if scheme == "atomic":
        model.atomic_head = AtomicHead(32, torch.randn(54, 8))
    model.train()
    asked = validation(ASKED, tables, assigned, vectors, prompts, 256, seed=0)
    scores = asked.measure_model(model)
    assert model.training and set(scores) == {"R@1", "R@5", "R@10", "MRR@10"}
    assert scores["R@10"] == 1.0, "there are four val images"
    assert 0 <= scores["R@1"] <= scores["MRR@10"] <= 1
    before = {name: value.clone() for name, value in model.named_parameters()}
    knows = asked.query_ids[:3]  # of three queries the answer of the model is declared to be right
    search = module.atomic_search if scheme == "atomic" else module.generative_search
    with torch.inference_mode():
        media = model.resample(asked.pad_tokens)
    found = search(
        model.eval(), asked.prompts, media, asked.tree, asked.identifiers, module.SEARCH, asked.query_ids
    ).answers
    gold = [found[query][0][0] if query in knows else "elsewhere" for query in asked.query_ids]
    right = module.replace(asked, gold=gold).measure_model(model)
    assert right["R@1"] == right["R@10"] == right["MRR@10"] == pytest.approx(3 / len(gold))
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())


def test_the_measures_are_those_of_the_evaluation(tiny, with_val, tokenizer_folder, vectors, monkeypatch) -> None:
    tables, assigned = load_dataset(tiny["dataset"]), with_val("numeric")
    asked = validation(ASKED, tables, assigned, vectors, Prompts(read_tokenizer(tokenizer_folder)), 96, seed=0)
    places = dict(zip(asked.query_ids, (1, 2, 5, 6, 10, 11, 0, 3), strict=True))  # 0: not found at all
    answers = {
        query: [(gold if rank == places[query] else f"other{rank}", -float(rank)) for rank in range(1, 13)]
        for query, gold in zip(asked.query_ids, asked.gold, strict=True)
    }
    monkeypatch.setattr(module, "generative_search", lambda *given: Found(answers, None))
    model = SimpleNamespace(
        training=False, eval=lambda: None, train=lambda mode: None, parameters=lambda: iter([torch.zeros(1)]),
        resample=lambda tokens: tokens,
    )  # fmt: skip
    run = pd.DataFrame(
        [(query, doc, rank) for query, docs in answers.items() for rank, (doc, _) in enumerate(docs, 1)],
        columns=["query_id", "doc_id", "rank"],
    )
    qrels = pd.DataFrame({"query_id": asked.query_ids, "doc_id": asked.gold, "relevance": 1})
    wanted = per_query(qrels, run).mean().to_dict()
    assert asked.measure_model(model) == pytest.approx(wanted) and wanted["R@5"] == 4 / 8


def test_few_queries_are_drawn_by_the_seed(tiny, with_val, tokenizer_folder, vectors) -> None:
    tables, assigned, prompts = (
        load_dataset(tiny["dataset"]),
        with_val("numeric"),
        Prompts(read_tokenizer(tokenizer_folder)),
    )
    few = Training(validate_every=5, validate_queries=3)
    drawn = [validation(few, tables, assigned, vectors, prompts, 96, seed).query_ids for seed in (0, 0, 1, 2, 3)]
    assert drawn[0] == drawn[1] and len(drawn[0]) == 3 and len({tuple(ids) for ids in drawn}) > 1
    assert validation(Training(), tables, assigned, vectors, prompts, 96, seed=0) is None


def test_what_is_lacking_is_told(tiny, make, tokenizer_folder, vectors) -> None:
    tables, prompts = load_dataset(tiny["dataset"]), Prompts(read_tokenizer(tokenizer_folder))
    with pytest.raises(GraceError, match=r"have none for val images.*--val"):
        validation(ASKED, tables, make("numeric"), vectors, prompts, 96, seed=0)
    with pytest.raises(GraceError, match="val image im0 has no pseudo-query"):
        make("semantic", name="more", val=True)
    empty = SimpleNamespace(folder="here", captions_of=lambda split: [])
    with pytest.raises(GraceError, match="no val image; set it to 0"):
        validation(ASKED, empty, make("numeric", name="again"), vectors, prompts, 96, seed=0)


@pytest.mark.parametrize("saves", [(), (4,), (2, 5, 6)])
def test_two_models_are_kept_at_most_and_a_resumed_training_finds_its_best(tmp_path, saves) -> None:
    """However often it gets better: the best, and the best at the newest state (written before the step is measured)."""
    found = Validations(SimpleNamespace(folder=tmp_path), "R@1")
    scores = [0.1, 0.2, 0.3, 0.25, 0.4, 0.5, 0.6]
    for step, score in enumerate(scores):
        if step in saves:
            found.drop_older()
        found.add(step, {"R@1": score}, lambda step=step: {"w": torch.tensor([float(step)])})
        assert len(list((tmp_path / "best").iterdir())) <= 2
        assert found.model()["w"] == scores.index(max(scores[: step + 1]))
    start = max(saves, default=0)
    gone_on = Validations(SimpleNamespace(folder=tmp_path), "R@1", start=start)
    if start:
        assert gone_on.model()["w"] == scores.index(max(scores[:start]))
    else:
        assert gone_on.best is None


def test_the_best_model_is_kept_and_patience_ends_a_training(tmp_path) -> None:
    state = SimpleNamespace(folder=tmp_path)
    found = Validations(state, "R@1", patience=2)
    assert found.best is None and not found.exhausted
    for step, score in ((5, 0.1), (10, 0.3), (15, 0.3)):
        found.add(step, {"R@1": score}, lambda step=step: {"w": torch.tensor([float(step)])})
        assert not found.exhausted
        if step == 5:  # the resumable state of step 10 is written
            found.drop_older()
    assert found.best["step"] == 10, "of equal ones the first"
    assert found.model()["w"] == 10
    assert {path.name for path in (tmp_path / "best").iterdir()} == {"step5.safetensors", "step10.safetensors"}
    gone_on = Validations(
        state, "R@1", 2, start=10
    )  # killed, and the newest state is that of step 10: 10 is measured again
    assert [line["step"] for line in gone_on.lines] == [5] and gone_on.model()["w"] == 5
    found.drop_older()
    assert [path.name for path in (tmp_path / "best").iterdir()] == ["step10.safetensors"]
    found.add(20, {"R@1": 0.2}, lambda: {})
    assert found.exhausted
    (tmp_path / "model").mkdir()
    assert Validations(state, "R@1").export(tmp_path / "model") == {
        "measure": "R@1", "step": 10, "R@1": 0.3, "validations": 4,
    }  # fmt: skip
    assert len((tmp_path / "model" / "validation.jsonl").read_text().splitlines()) == 4
