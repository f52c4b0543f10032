"""The input of both steps: the data, the model and the retrieve samples of one configuration, with random weights.

Runs the stages dataset, tokenizer, encode and identifiers in a temporary folder. Speed does not depend on the values of the
weights, so the tower is not trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from grace.data import source
from grace.data.tables import load_dataset
from grace.identifiers import identifiers
from grace.identifiers.base import load_identifiers, read_tokenizer
from grace.model.flamingo import GraceFlamingo, add_tokens, build
from grace.model.prompts import Prompts
from grace.model.tokenizer import tokenizer
from grace.system.files import write_json
from grace.system.weights import save_weights, unique_tensors
from grace.towers import open_tower
from grace.towers.dual_encoder import DualEncoder
from grace.towers.embeddings import PAD_COLOUR, Embeddings, encode, load_embeddings
from grace.towers.scratch import word_tokenizer
from grace.training.pools import Pool, scheme_pools
from grace.workflow.config import Config

SCHEME = "structured"  # its identifiers are generated, so the vocabulary head matters


@dataclass(frozen=True)
class Work:
    model: GraceFlamingo
    tower: Any  # as returned by `grace.towers.open_tower`
    pad_image: Path  # the pad image of the stage `encode`, as a file
    pool: Pool  # retrieve samples, and their number per step
    embeddings: Embeddings
    pad_id: int


def make(config: Config, folder: Path, images: int = 300) -> Work:
    """The work of the retrieve step of `config`, for data with `images` train and as many test images."""
    scenes = config.dataset.scenes.model_copy(update={"train_images": images, "val_images": 10, "test_images": images})
    source("scenes")(output=folder / "dataset", settings=scenes, name="scenes")
    tables = load_dataset(folder / "dataset")
    tokenizer(dataset=folder / "dataset", output=folder / "tokenizer", settings=config.flamingo)
    _random_tower(config, tables.captions["text"].tolist(), folder / "tower")
    encode(dataset=folder / "dataset", tower=folder / "tower", output=folder / "embeddings", settings=config.tower)
    identifiers(
        scheme=SCHEME, seed=0, dataset=folder / "dataset", tokenizer=folder / "tokenizer",
        embeddings=folder / "embeddings", pseudo_queries=None, output=folder / "identifiers", settings=config.identifiers,
    )  # fmt: skip
    words, assigned = read_tokenizer(folder / "tokenizer"), load_identifiers(folder / "identifiers")
    embeddings = load_embeddings(folder / "embeddings", len(tables.images))
    model = build(config.flamingo, words, embeddings.width)
    add_tokens(model, len(words) + len(assigned.new_tokens), 0)
    training = config.train.for_scheme(SCHEME).model_copy(update={"memorize_batch": 0, "pseudo_query_share": 0.0})
    (pool,) = scheme_pools(tables, assigned, folder, Prompts(words), training, model.max_length)
    Image.new("RGB", (224, 224), PAD_COLOUR).save(folder / "pad.png")
    return Work(
        model=model,
        tower=open_tower(folder / "tower"),
        pad_image=folder / "pad.png",
        pool=pool,
        embeddings=embeddings,
        pad_id=words.pad_token_id,
    )


def _random_tower(config: Config, texts: list[str], folder: Path) -> None:
    """Write a tower folder like the stage `tower`, with random weights."""
    folder.mkdir()
    settings = config.tower.scratch
    words = word_tokenizer(texts)
    torch.manual_seed(settings.seed)
    model = DualEncoder(settings, words.get_vocab_size())
    save_weights(folder / "model.safetensors", unique_tensors(model))
    words.save(str(folder / "tokenizer.json"))
    shape = {"vocabulary": words.get_vocab_size(), "max_text": model.text_positions.shape[0]}
    write_json(folder / "config.json", {"kind": "scratch", "settings": settings.model_dump(), **shape})


def window(work: Work, steps: int) -> list[np.ndarray]:
    """The samples of the first `steps` steps, in the sampler's order, int64 [batch] each."""
    from grace.training.sampler import Sampler

    sampler = Sampler(work.pool.samples.lengths(), work.pool.batch, (0, 0))
    return [sampler.rows(step) for step in range(steps)]
