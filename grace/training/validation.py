"""Validation during training: captions of the val split against the val images, by the scheme's own search.

What is asked and what is searched is the test's setting once more, on other images: val images have identifiers, are
memorised, and have pseudo-queries if the gallery's have; their gold captions are queries and never samples. No caption of a
test image is read. What the validations of a training found is kept by `grace.training.validation_results`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from grace.data.tables import DatasetTables
from grace.identifiers.base import IdentifierTables
from grace.identifiers.tree import Trie
from grace.identifiers.tree.stage import tree_of
from grace.model.batches import PAD_IMAGE
from grace.model.flamingo import GraceFlamingo
from grace.model.prompts import Prompts, check_lengths
from grace.retrieval.atomic import atomic_search
from grace.retrieval.generative import generative_search
from grace.system.errors import GraceError
from grace.towers.embeddings import Embeddings
from grace.training.processes import over_all, rank, world_size
from grace.workflow.config import Retrieve, Training

SEARCH = Retrieve()  # ten beams, ten images: what the measures look at
Answer = list[tuple[str, float]]
"""Images, best first, with their scores: log-probabilities, nats."""
Search = Callable[[GraceFlamingo, list[list[int]], list[str]], dict[str, Answer]]
"""A model, prompts (token ids) and the ids of these queries to the answers by query id."""


@dataclass(frozen=True)
class Validation:
    """Val captions, their images, and the search that looks for these."""

    prompts: list[list[int]]
    query_ids: list[str]
    gold: list[str]  # image_id of every query
    search: Search
    every: int  # steps
    patience: int
    measure: str

    def due(self, step: int, steps: int) -> bool:
        """Whether the model that has made `step` of `steps` steps is measured."""
        return step > 0 and (step % self.every == 0 or step == steps)

    def measure_model(self, model: GraceFlamingo) -> dict[str, float]:
        """R@1, R@5, R@10 and MRR@10 of a whole model, fractions; each process asks its share of the queries."""
        mine = slice(rank(), None, world_size())
        found: dict[str, Answer] = {}
        was, _ = model.training, model.eval()
        try:
            if self.prompts[mine]:
                found = self.search(model, self.prompts[mine], self.query_ids[mine])
        finally:
            model.train(was)
        ranks = np.array(
            [_rank(found[query], gold) for query, gold in zip(self.query_ids[mine], self.gold[mine], strict=True)]
        )
        hits = {f"R@{depth}": ((ranks > 0) & (ranks <= depth)).sum() for depth in (1, 5, 10)}
        hits["MRR@10"] = (1 / ranks[(ranks > 0) & (ranks <= 10)]).sum()
        sums = torch.tensor([*hits.values(), len(ranks)], dtype=torch.float64)
        means = over_all(sums, "mean")  # of sums: the ratio below is that of the sums
        return dict(zip(hits, (means[:-1] / means[-1]).tolist(), strict=True))


@dataclass(frozen=True)
class GallerySearch:
    """The scheme's own search among the images of one split, as a `Search`."""

    identifiers: IdentifierTables  # with these images as their split test
    tree: Trie
    pad_tokens: Tensor  # f32 [1, T, C]

    def __call__(self, model: GraceFlamingo, prompts: list[list[int]], query_ids: list[str]) -> dict[str, Answer]:
        device = next(model.parameters()).device
        with torch.inference_mode():
            media = model.resample(self.pad_tokens.to(device))
        search = atomic_search if self.identifiers.scheme == "atomic" else generative_search
        return search(model, prompts, media, self.tree.to(device), self.identifiers, SEARCH, query_ids).answers


def validation(
    training: Training, tables: DatasetTables, assigned: IdentifierTables, embeddings: Embeddings, prompts: Prompts,
    limit: int | None, seed: int,
) -> Validation | None:  # fmt: skip
    """The validation that the settings ask for; None without one. `limit`: longest sequence that the model reads, tokens.

    Of more val captions than `training.validate_queries`, `seed` draws that many. A `GraceError` where there are no val images, or
    they have no identifiers.
    """
    if not training.validate_every:
        return None
    captions = tables.captions_of("val")
    if not len(captions):
        raise GraceError(f"train.validate_every is set, but the data set {tables.folder} has no val image; set it to 0")
    own = assigned.table[assigned.table["split"] == "val"]
    if not len(own):
        raise GraceError(
            f"identifiers {assigned.folder} have none for val images, which train.validate_every needs; run pseudo_queries "
            "and identifiers with --val"
        )
    if len(captions) > training.validate_queries:
        chosen = np.random.default_rng([seed, 3]).permutation(len(captions))[: training.validate_queries]
        captions = captions.iloc[np.sort(chosen)]
    tree = tree_of(own, None if assigned.scheme == "atomic" else prompts.end)
    prompt_ids = prompts.retrieve(captions["text"].tolist())
    check_lengths([len(ids) + tree.depth for ids in prompt_ids], limit, "val query with its identifier")
    gallery = replace(assigned, table=own.assign(split="test"))
    return Validation(
        prompts=prompt_ids,
        query_ids=captions["caption_id"].tolist(),
        gold=captions["image_id"].tolist(),
        search=GallerySearch(gallery, tree, embeddings.visual([PAD_IMAGE])),
        every=training.validate_every,
        patience=training.patience,
        measure=training.validate_measure,
    )


def _rank(answers: Answer, gold: str) -> int:
    """The rank of an image among the answers, from 1; 0: it is not there."""
    return next((place for place, (image, _) in enumerate(answers, 1) if image == gold), 0)
