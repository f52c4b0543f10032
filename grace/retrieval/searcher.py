"""A trained model with its identifiers and their prefix tree, opened and ready to be asked.

Used by the stage `retrieve` and by the command `search`; writes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from grace.data.tables import DatasetTables
from grace.identifiers.base import IdentifierTables, load_identifiers
from grace.identifiers.tree import Trie
from grace.identifiers.tree.file import open_trie
from grace.identifiers.tree.stage import tree_of
from grace.model.batches import PAD_IMAGE
from grace.model.checkpoints import load_model
from grace.model.prompts import Prompts, check_queries
from grace.retrieval.atomic import atomic_search
from grace.retrieval.generative import generative_search
from grace.system.errors import GraceError
from grace.towers.embeddings import Embeddings, load_embeddings
from grace.workflow.config import Retrieve

Answers = dict[str, list[tuple[str, float]]]
"""Query id to images, best first, with their scores: log-probabilities, nats."""


@dataclass
class Searcher:
    """What `retrieve` and `search` ask. `assigned` holds the images that are searched as its split test, `tree` is theirs."""

    flamingo: Any
    words: Any
    config: dict[str, Any]
    assigned: IdentifierTables
    tree: Trie
    vectors: Embeddings

    def answers(
        self, texts: list[str], query_ids: list[str], settings: Retrieve
    ) -> tuple[Answers, dict[str, Any], dict[str, int]]:
        """The images of every text, the counts, and how many ranks of each are certified: see `generative_search`."""
        prompts = Prompts(self.words)
        tokens = 0 if self.config["scheme"] == "atomic" else self.tree.depth  # a class is no token
        check_queries(prompts, texts, tokens, self.flamingo.max_length, "query")
        prompt_ids = prompts.retrieve(texts)
        first = next(self.flamingo.parameters())
        with torch.inference_mode():
            media = self.flamingo.resample(self.vectors.visual([PAD_IMAGE]).to(first.device, first.dtype))
        search = atomic_search if self.config["scheme"] == "atomic" else generative_search
        return search(self.flamingo, prompt_ids, media, self.tree.to(first.device), self.assigned, settings, query_ids)

    def among_all(self) -> Searcher:
        """The same model asked for any image that it has an identifier for, of whatever split."""
        table = self.assigned.table
        return replace(
            self, assigned=replace(self.assigned, table=table.assign(split="test")), tree=tree_of(table, self.tree.end)
        )


def open_searcher(
    tables: DatasetTables, embeddings: Path, identifiers: Path, trie: Path, model: Path, device: str
) -> Searcher:
    """Open the model and check that identifiers and tree are those that it was trained with; `device`: auto, cpu or cuda."""
    flamingo, words, config = load_model(model, _device(device))
    assigned = load_identifiers(identifiers)
    if config.get("identifiers") != assigned.fingerprint:
        raise GraceError(f"model {model} was trained on other identifiers than {identifiers}; train it again")
    gone = set(assigned.table["image_id"]) - set(tables.images["image_id"])
    if gone:
        raise GraceError(
            f"data set {tables.folder} was made again since the model was trained: it has no image {min(gone)} any more; "
            "run snakemake again"
        )
    tree = open_trie(trie)
    tree.check(assigned)
    vectors = load_embeddings(embeddings, len(tables.images))
    return Searcher(flamingo, words, config, assigned, tree, vectors)


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise GraceError(
            "retrieve.device is cuda but torch sees no GPU; set it to auto or cpu, or install a CUDA build of torch"
        )
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
