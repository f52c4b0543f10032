"""A tiny results folder, made by the stages themselves: drawings, tower, embeddings, tokenizer, and trained systems."""

from __future__ import annotations

from pathlib import Path

from grace.captions.pseudo_queries import pseudo_queries
from grace.data.scenes import scenes
from grace.evaluation.baselines import baseline
from grace.identifiers import identifiers
from grace.identifiers.tree import trie
from grace.model.tokenizer import tokenizer
from grace.retrieval.stage import retrieve
from grace.towers import tower
from grace.towers.embeddings import encode
from grace.training.stage import train
from grace.workflow.config import (
    Atomic,
    Flamingo,
    Identifiers,
    PseudoQueries,
    Retrieve,
    Scenes,
    ScratchLanguageModel,
    ScratchTower,
    Tower,
    Training,
)  # fmt: skip

LANGUAGE_MODEL = ScratchLanguageModel(width=32, layers=2, heads=2, vocabulary=400)
FLAMINGO = Flamingo(scratch=LANGUAGE_MODEL, perceiver_latents=4, cross_attention_heads=2, cross_attention_head_dim=16)
TOWER = Tower(
    scratch=ScratchTower(width=32, layers=1, heads=2, text_width=32, text_layers=1, embedding_dim=32, steps=20,
                         batch_size=16, warmup_steps=5),
)  # fmt: skip
TRAINING = Training(steps=10, memorize_batch=8, retrieve_batch=16, warmup_steps=2, start_from="scratch")


def make_results(folder: Path, schemes: tuple[str, ...]) -> None:
    """Run every stage from the drawings to the runs of the baseline and of `schemes`, seed 0, into `folder`/scenes."""
    at = folder / "scenes"
    dataset, embeddings, words = at / "dataset", at / "embeddings", at / "tokenizer"
    scenes(output=dataset, settings=Scenes(train_images=24, val_images=2, test_images=14))
    tower(dataset=dataset, output=at / "tower", settings=TOWER)
    encode(dataset=dataset, tower=at / "tower", output=embeddings, settings=TOWER)
    tokenizer(dataset=dataset, output=words, settings=FLAMINGO)
    pseudo_queries(
        dataset=dataset, embeddings=embeddings, captioner=None, tower=at / "tower", output=at / "pseudo_queries",
        settings=PseudoQueries(source="nearest", per_image=2),
    )  # fmt: skip
    (at / "baseline").mkdir()
    baseline(dataset=dataset, embeddings=embeddings, tower=at / "tower", output=at / "baseline", settings=Retrieve())
    made = {"dataset": dataset, "tokenizer": words, "embeddings": embeddings, "pseudo_queries": at / "pseudo_queries"}
    for scheme in schemes:
        own = at / scheme / "seed0"
        ids = own / "identifiers"
        identifiers(scheme=scheme, seed=0, **made, output=ids, settings=Identifiers(clusters=3, leaf_size=3))
        trie(identifiers=ids, tokenizer=words, output=own / "trie.safetensors")
        train(
            scheme=scheme, seed=0, **made, identifiers=ids, output=own / "model", state=own / "training_state",
            flamingo=FLAMINGO, training=TRAINING, atomic_head=Atomic(),
        )  # fmt: skip
        retrieve(
            dataset=dataset, embeddings=embeddings, identifiers=ids, trie=own / "trie.safetensors",
            model=own / "model", output=own, settings=Retrieve(),
        )  # fmt: skip
