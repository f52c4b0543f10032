"""Unit-length embeddings from a tower: captions encoded by its text side, and the stored embeddings of images.

Used by the baseline, by pseudo-queries from nearest captions and by distillation.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from grace.data.tables import DatasetTables
from grace.system.errors import GraceError
from grace.system.files import read_array
from grace.system.progress import progress


def embeddings_of(images: pd.DataFrame, tables: DatasetTables, embeddings: Path) -> np.ndarray:
    """Embeddings of `images`, a subset of the rows of `tables.images`, in order: float32 [images, D], C-contiguous."""
    path = Path(embeddings) / "image_embeddings.npy"
    all_ND = read_array(path, "image embeddings")
    if all_ND.ndim != 2 or len(all_ND) != len(tables.images):
        raise GraceError(
            f"image embeddings {path} have the shape {list(all_ND.shape)}, but the data set {tables.folder} has "
            f"{len(tables.images)} images; encode the images again"
        )
    images_ND = np.ascontiguousarray(all_ND[images.index.to_numpy()], dtype=np.float32)
    _check_unit_length(images_ND, f"image embeddings {path}")
    return images_ND


def encode_captions(texts: list[str], encode_text: Callable[[list[str]], Any], batch_size: int) -> np.ndarray:
    """Encode `texts` in batches: float32 [texts, D], C-contiguous; `encode_text` returns torch tensors on any
    device."""
    starts = range(0, len(texts), batch_size)
    parts = [
        np.asarray(encode_text(texts[start : start + batch_size]).detach().cpu(), dtype=np.float32)
        for start in progress(starts, desc="encode captions", unit="batches", shown=len(starts) > 1)
    ]
    queries_QD = np.ascontiguousarray(np.concatenate(parts))
    _check_unit_length(queries_QD, "the tower's text embeddings")
    return queries_QD


def _check_unit_length(rows_ND: np.ndarray, what: str) -> None:
    length = np.linalg.norm(rows_ND, axis=1)
    bad = ~(np.abs(length - 1) < 1e-2)
    if bad.any():
        raise GraceError(
            f"{what}: row {bad.argmax()} has the length {length[bad.argmax()]:.4g} instead of 1; cosine search needs "
            "normalised embeddings (nan means that the training of the tower diverged)"
        )
