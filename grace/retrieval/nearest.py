"""An opened dual encoder: exact nearest-neighbour search (FAISS flat index, inner product).

Used by the stage `baseline` and by `grace.open`; writes nothing. Embeddings have length 1, so the inner product is the cosine.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from grace.data.tables import DatasetTables
from grace.retrieval.folders import BASELINE
from grace.retrieval.found import Found
from grace.system.errors import GraceError
from grace.towers.text_side import embeddings_of, encode_captions
from grace.workflow.config import Retrieve


@dataclass
class NearestSearcher:
    """The text side of a tower and the embeddings of the images to search."""

    encoder: Any
    image_ids: list[str]
    vectors_ND: np.ndarray  # f32 [images, D], unit length
    tower: Path
    embeddings: Path

    scheme = BASELINE
    log_likelihoods = False  # its scores are cosines

    @property
    def seed(self) -> int | None:
        return getattr(self.encoder, "seed", None)

    def answers(self, texts: list[str], query_ids: list[str], settings: Retrieve) -> Found:
        """The nearest `settings.depth` images of every text, with their cosines; ties by image id.

        `settings.batch_size` texts are encoded at a time; other settings have no effect here.
        """
        scores, rows = nearest(self.vectors_ND, self.encoded(texts, settings.batch_size), settings.depth)
        found = {}
        for query_id, own_scores, own_rows in zip(query_ids, scores.tolist(), rows.tolist(), strict=True):
            pairs = [(self.image_ids[row], score) for row, score in zip(own_rows, own_scores, strict=True)]
            found[query_id] = sorted(pairs, key=lambda pair: (-pair[1], pair[0]))
        return Found(found, None)

    def score(self, text: str, image_id: str, settings: Retrieve) -> float:
        """The cosine of a text and an image."""
        query_D = self.encoded([text], settings.batch_size)[0]
        return float(query_D @ self.vectors_ND[self.image_ids.index(image_id)])

    def encoded(self, texts: list[str], batch_size: int) -> np.ndarray:
        """Embeddings of texts, f32 [texts, D], unit length."""
        queries_QD = encode_captions(texts, self.encoder.encode_text, batch_size)
        if queries_QD.shape[1] != self.vectors_ND.shape[1]:
            raise GraceError(
                f"tower {self.tower} makes text embeddings of {queries_QD.shape[1]} dimensions, the image embeddings in "
                f"{self.embeddings} have {self.vectors_ND.shape[1]}; they come from different towers: encode the images again"
            )
        return queries_QD


def open_nearest(tables: DatasetTables, images: pd.DataFrame, embeddings: Path, tower: Path) -> NearestSearcher:
    """Open the tower to search `images`, some rows of `tables.images`. Raises `GraceError` if tower and embeddings do not match."""
    from grace.towers import open_tower  # loads torch

    vectors_ND = embeddings_of(images, tables, embeddings)
    return NearestSearcher(open_tower(tower), images["image_id"].tolist(), vectors_ND, tower, embeddings)


def nearest(gallery_ND: np.ndarray, queries_QD: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """Exact search: scores float32 and gallery rows int64, both [queries, min(depth, gallery)], best first."""
    import faiss

    index = faiss.IndexFlatIP(gallery_ND.shape[1])
    index.add(gallery_ND)
    return index.search(queries_QD, min(depth, len(gallery_ND)))
