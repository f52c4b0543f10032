"""What every scheme trains on: the pools of memorize and retrieve samples.

- memorize: every image that has identifiers with each of them, or all of these but the train images.
- retrieve: the gold captions of the train images, and the pseudo-queries of the gallery (test) images. No gold caption of
  a val or test image is ever a sample.
- caption (the captioner): the gold captions of the train images, with their images.

Val images have identifiers where a training is validated; then they are what gallery images are in all of this.
A scheme's targets are identifier tokens and the end token; atomic has a class number instead.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from grace.data.tables import DatasetTables
from grace.identifiers.base import IdentifierTables
from grace.model.batches import PAD_IMAGE, Samples
from grace.model.prompts import Prompts, check_lengths
from grace.system.errors import GraceError
from grace.system.files import read_table
from grace.workflow.config import Training


@dataclass(frozen=True)
class Pool:
    """Samples of one kind and how many of them a step takes."""

    kind: str  # "memorize", "retrieve", "pseudo", "caption"
    samples: Samples
    batch: int
    captions: list[str] = field(default_factory=list)  # of the samples that are made of captions


def scheme_pools(
    tables: DatasetTables, identifiers: IdentifierTables, pseudo_queries: Path, prompts: Prompts, training: Training,
    limit: int | None,
) -> list[Pool]:  # fmt: skip
    """The pools of one scheme; batch sizes of zero leave a pool out. `limit`: longest sequence that the model reads."""
    table = identifiers.table
    row_of = pd.Series(tables.images.index, index=tables.images["image_id"])
    atomic = identifiers.scheme == "atomic"
    pseudo = training.pseudo_batch
    gold = training.retrieve_batch - pseudo
    pools = []
    if training.memorize_batch:
        chosen = table if training.memorize_images == "all" else table[table["split"] != "train"]
        prompt_ids = [prompts.memorize(identifiers.scheme)] * len(chosen)
        rows = row_of[chosen["image_id"]].to_numpy()
        pools.append(_pool("memorize", prompt_ids, chosen, rows, prompts, atomic, training.memorize_batch))
    if gold:
        pairs = tables.captions_of("train")[["image_id", "text"]]
        pools.append(_text_pool("retrieve", pairs, table, prompts, atomic, gold))
    if pseudo:
        pairs = read_table(pseudo_queries / "pseudo_queries.parquet", "pseudo-queries", ["image_id", "text"])
        strangers = set(pairs["image_id"]) - set(table["image_id"][table["split"] != "train"])
        if strangers:
            raise GraceError(f"pseudo-queries name images that are not in the gallery, such as {min(strangers)}")
        pools.append(_text_pool("pseudo", pairs[["image_id", "text"]], table, prompts, atomic, pseudo))
    for pool in pools:
        check_lengths(pool.samples.lengths().tolist(), limit, f"{pool.kind} sample")
        if not len(pool.samples):
            raise GraceError(f"there are no {pool.kind} samples; set the batch size of that kind to 0")
    return pools


def caption_pools(tables: DatasetTables, prompts: Prompts, batch: int, limit: int | None) -> list[Pool]:
    """The captioner's only pool."""
    captions = tables.captions_of("train")
    row_of = pd.Series(tables.images.index, index=tables.images["image_id"])
    targets = prompts.caption_targets(captions["text"].tolist())
    rows = row_of[captions["image_id"]].to_numpy()
    samples = Samples([prompts.caption()] * len(targets), targets, rows, np.empty(0, dtype=np.int64))
    check_lengths(samples.lengths().tolist(), limit, "caption")
    return [Pool("caption", samples, batch)]


def _text_pool(kind: str, pairs: pd.DataFrame, table: pd.DataFrame, prompts: Prompts, atomic: bool, batch: int) -> Pool:
    """Texts with every identifier of their image (semantic identifiers: not the text itself, which would be copied)."""
    joined = pairs.merge(table[["image_id", "tokens", "text"]], on="image_id", suffixes=("", "_identifier"))
    copies = joined["text"] == joined["text_identifier"]
    single = joined.groupby("image_id")["text_identifier"].transform("nunique") == 1
    joined = joined[~copies | single].reset_index(drop=True)
    images = np.full(len(joined), PAD_IMAGE, dtype=np.int64)
    texts = joined["text"].tolist()
    return replace(_pool(kind, prompts.retrieve(texts), joined, images, prompts, atomic, batch), captions=texts)


def _pool(
    kind: str, prompt_ids: list, table: pd.DataFrame, images: np.ndarray, prompts: Prompts, atomic: bool, batch: int
) -> Pool:
    if atomic:
        labels = np.array([int(tokens[0]) for tokens in table["tokens"]], dtype=np.int64)
        return Pool(kind, Samples(prompt_ids, [[] for _ in labels], images, labels), batch)
    targets = prompts.identifier_targets(table["tokens"].tolist())
    return Pool(kind, Samples(prompt_ids, targets, images, np.empty(0, dtype=np.int64)), batch)
