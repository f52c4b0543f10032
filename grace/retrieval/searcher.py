"""An opened model with its identifiers and their prefix tree, ready to search.

Used by the stage `retrieve` and by `grace.open`; writes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from grace.data.tables import DatasetTables
from grace.identifiers.base import IdentifierTables, load_identifiers
from grace.identifiers.tree import Trie
from grace.identifiers.tree.file import open_trie
from grace.identifiers.tree.stage import tree_of
from grace.model.batches import PAD_IMAGE
from grace.model.checkpoints import load_model
from grace.model.prompts import Prompts, check_queries
from grace.retrieval.atomic import atomic_search
from grace.retrieval.found import Found
from grace.retrieval.generative import generative_search
from grace.retrieval.hypotheses import Rule
from grace.retrieval.pair import identifier_score
from grace.system.errors import GraceError
from grace.towers.embeddings import Embeddings, load_embeddings
from grace.workflow.config import Retrieve


@dataclass
class Searcher:
    """What `retrieve` and `grace.open` search with. The split test of `assigned` is the images to search, `tree` is their tree."""

    flamingo: Any
    words: Any
    config: dict[str, Any]
    assigned: IdentifierTables
    tree: Trie
    vectors: Embeddings

    log_likelihoods = True

    @property
    def scheme(self) -> str:
        return self.config["scheme"]

    @property
    def seed(self) -> int:
        return self.config["seed"]

    @property
    def image_ids(self) -> list[str]:
        """The images to search."""
        return list(self.tree.image_ids)

    def answers(self, texts: list[str], query_ids: list[str], settings: Retrieve) -> Found:
        """The images of every text, how many are certified, and the counts: see `generative_search`."""
        prompts, media = self._prompts(texts), self._media()
        search = atomic_search if self.scheme == "atomic" else generative_search
        return search(self.flamingo, prompts, media, self.tree.to(media.device), self.assigned, settings, query_ids)

    def score(self, text: str, image_id: str, settings: Retrieve) -> float:
        """The score of one image for one text, nats: what `answers` gives it, up to rounding, without a search."""
        prompt, media = self._prompts([text])[0], self._media()
        gallery = self.assigned.of_split("test")
        identifiers = [tokens.tolist() for tokens in gallery.loc[gallery["image_id"] == image_id, "tokens"]]
        if self.scheme == "atomic":
            with torch.inference_mode():
                hidden, _ = self.flamingo.hidden_states(torch.tensor([prompt], device=media.device), media)
                return float(self.flamingo.atomic_head(hidden[0, -1:]).log_softmax(-1)[0, identifiers[0][0]])
        rule, tree = Rule(settings.normalisation, self.assigned.levels), self.tree.to(media.device)
        scores = [identifier_score(self.flamingo, prompt, media, tree, identifier, rule) for identifier in identifiers]
        return max(scores) if settings.merge == "max" else float(np.logaddexp.reduce(scores))

    def _prompts(self, texts: list[str]) -> list[list[int]]:
        """Token ids of the prompts; a `GraceError` if a text leaves no room for an identifier."""
        prompts = Prompts(self.words)
        tokens = 0 if self.scheme == "atomic" else self.tree.depth  # a class takes no tokens
        check_queries(prompts, texts, tokens, self.flamingo.max_length, "query")
        return prompts.retrieve(texts)

    def _media(self) -> Tensor:
        """The resampled pad image, which all queries share, [1, 1, N, C]."""
        first = next(self.flamingo.parameters())
        with torch.inference_mode():
            return self.flamingo.resample(self.vectors.visual([PAD_IMAGE]).to(first.device, first.dtype))

    def among_all(self) -> Searcher:
        """The same model, searching all images that have an identifier, of every split."""
        table = self.assigned.table
        return replace(
            self, assigned=replace(self.assigned, table=table.assign(split="test")), tree=tree_of(table, self.tree.end)
        )


def open_searcher(
    tables: DatasetTables, embeddings: Path, identifiers: Path, trie: Path, model: Path, device: str
) -> Searcher:
    """Open the model and check that it was trained with these identifiers and this tree; `device`: auto, cpu or cuda."""
    flamingo, words, config = load_model(model, _device(device))
    assigned = load_identifiers(identifiers)
    if config.get("identifiers") != assigned.fingerprint:
        raise GraceError(f"model {model} was not trained on the identifiers in {identifiers}; train it again")
    gone = set(assigned.table["image_id"]) - set(tables.images["image_id"])
    if gone:
        raise GraceError(
            f"data set {tables.folder} was made again after the model was trained: it no longer has image {min(gone)}; "
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
