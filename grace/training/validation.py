"""Validation during training: captions of the val split against the val images, by the scheme's own search.

What is asked and what is searched is the test's setting once more, on other images: val images have identifiers, are
memorised, and have pseudo-queries if the gallery's have; their gold captions are queries and never samples. No caption of a
test image is read. `Validation` measures a model; `Validations` are the results of one training in its state folder:
`validation.jsonl` and `best/step{n}.safetensors`, the model of the best one.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from grace.data.tables import DatasetTables
from grace.identifiers.base import IdentifierTables
from grace.identifiers.tree import Trie
from grace.identifiers.tree.stage import tree_of
from grace.model.batches import PAD_IMAGE
from grace.model.prompts import Prompts, check_lengths
from grace.retrieval.atomic import atomic_search
from grace.retrieval.generative import generative_search
from grace.system.errors import GraceError
from grace.system.files import replacing
from grace.system.weights import save_weights
from grace.towers.embeddings import Embeddings
from grace.training.deepspeed_engine import is_first_process, over_all, rank, world_size
from grace.training.state import TrainingState
from grace.workflow.config import Retrieve, Training

SEARCH = Retrieve()  # ten beams, ten images: what the measures look at


@dataclass(frozen=True)
class Validation:
    """Val captions, their images, and the tree of the val images' identifiers."""

    prompts: list[list[int]]
    query_ids: list[str]
    gold: list[str]  # image_id of every query
    identifiers: IdentifierTables  # with the val images for a gallery
    tree: Trie
    pad_tokens: Tensor  # f32 [1, T, C]
    every: int
    patience: int
    measure: str

    def due(self, step: int, steps: int) -> bool:
        """Whether the model that has made `step` of `steps` steps is measured."""
        return step > 0 and (step % self.every == 0 or step == steps)

    def measure_model(self, model: Any) -> dict[str, float]:
        """R@1, R@5, R@10 and MRR@10 of a whole model, fractions; each process asks its share of the queries."""
        mine = slice(rank(), None, world_size())
        device = next(model.parameters()).device
        found = {}
        was, _ = model.training, model.eval()
        try:
            if self.prompts[mine]:
                with torch.inference_mode():
                    media = model.resample(self.pad_tokens.to(device))
                search = atomic_search if self.identifiers.scheme == "atomic" else generative_search
                found = search(
                    model,
                    self.prompts[mine],
                    media,
                    self.tree.to(device),
                    self.identifiers,
                    SEARCH,
                    self.query_ids[mine],
                ).answers
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


def validation(
    training: Training, tables: DatasetTables, assigned: IdentifierTables, embeddings: Embeddings, prompts: Prompts,
    limit: int | None, seed: int,
) -> Validation | None:  # fmt: skip
    """What the settings ask for; None if nothing. `limit`: longest sequence that the model reads."""
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
    return Validation(
        prompts=prompt_ids,
        query_ids=captions["caption_id"].tolist(),
        gold=captions["image_id"].tolist(),
        identifiers=replace(assigned, table=own.assign(split="test")),
        tree=tree,
        pad_tokens=embeddings.visual([PAD_IMAGE]),
        every=training.validate_every,
        patience=training.patience,
        measure=training.validate_measure,
    )


class Validations:
    """The validations of a training and the model of the best; every process holds the same lines, the first one writes."""

    def __init__(self, state: TrainingState, measure: str, patience: int = 0, start: int | None = None) -> None:
        """Those before step `start` of an earlier run of the same training (None: all)."""
        self.folder, self.measure, self.patience = state.folder, measure, patience
        self.file = state.folder / "validation.jsonl"
        said = self.file.read_text(encoding="utf-8").splitlines() if self.file.exists() else []
        lines = [json.loads(line) for line in said]
        self.lines = [line for line in lines if start is None or line["step"] < start]
        self.saved = self.best["step"] if self.best else None  # the best at the newest resumable state

    @property
    def best(self) -> dict[str, float] | None:
        """The line of the best model; of equal ones the first."""
        return max(self.lines, key=lambda line: line[self.measure], default=None)

    @property
    def exhausted(self) -> bool:
        """Whether the last `patience` validations were no better than the best before them."""
        best = self.best
        return bool(best and self.patience and len(self.lines) - 1 - self.lines.index(best) >= self.patience)

    def add(self, step: int, scores: dict[str, float], tensors: Callable[[], dict[str, Tensor]]) -> None:
        """Note a validation; if it is the best, keep the model (`tensors` gathers it, in every process).

        Of earlier best models the one of the newest resumable state stays, from which a training that is broken off goes on.
        """
        self.lines.append({"step": step, **scores})
        best = self.best
        if best is self.lines[-1]:
            gathered = tensors()
            if is_first_process():
                (self.folder / "best").mkdir(exist_ok=True)
                self._drop_all_but(self.saved)
                save_weights(self.model_file(step), gathered)
        if is_first_process():
            with replacing(self.file) as temporary:
                temporary.write_text("".join(json.dumps(line) + "\n" for line in self.lines), encoding="utf-8")

    def model_file(self, step: float) -> Path:
        return self.folder / "best" / f"step{step:.0f}.safetensors"

    def drop_older(self) -> None:
        """Delete the models that were best once: the newest resumable state knows of a better one."""
        self.saved = self.best["step"] if self.best else None
        self._drop_all_but(self.saved)

    def _drop_all_but(self, step: float | None) -> None:
        for path in (self.folder / "best").glob("*"):
            if step is None or path != self.model_file(step):
                path.unlink()

    def model(self) -> dict[str, Tensor]:
        """The tensors of the best model."""
        return load_file(self.model_file(self.best["step"]))

    def export(self, folder: Path) -> dict[str, Any] | None:
        """Copy the lines into a model folder; the best one, with the measure that it is best by."""
        if not self.lines:
            return None
        shutil.copy(self.file, folder / "validation.jsonl")
        return {"measure": self.measure, **self.best, "validations": len(self.lines)}


def _rank(answers: list[tuple[str, float]], gold: str) -> int:
    """The rank of an image among the answers, from 1; 0: it is not there."""
    return next((place for place, (image, _) in enumerate(answers, 1) if image == gold), 0)
