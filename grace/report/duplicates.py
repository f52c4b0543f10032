"""Duplicates within a data set: near-duplicate images by their embeddings, and identical captions.

Part of `python -m grace report`; reads only its arguments. A gallery image or test caption that also occurs in train makes
the task easier than it looks; of two test images with the same caption only one can be correct.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from grace.system.progress import progress

SAMPLE = 5_000
"""Maximum number of test images compared: the time is proportional to it and to the number of all images."""
BLOCK = (500, 20_000)
"""Numbers of test images and of other images compared at a time."""


@dataclass(frozen=True)
class Nearest:
    """For each compared test image: its row, the row of the nearest other image, and their cosine similarity."""

    rows: np.ndarray
    others: np.ndarray
    similarities: np.ndarray

    def at_least(self, threshold: float) -> int:
        return int((self.similarities >= threshold).sum())

    def closest(self, count: int) -> list[tuple[int, int, float]]:
        """The `count` most similar pairs (row, other row, similarity), each once."""
        pairs: dict[tuple[int, int], tuple[int, int, float]] = {}
        for place in np.argsort(-self.similarities, kind="stable"):
            row, other = int(self.rows[place]), int(self.others[place])
            pairs.setdefault((min(row, other), max(row, other)), (row, other, float(self.similarities[place])))
            if len(pairs) == count:
                break
        return list(pairs.values())


def nearest(vectors: np.ndarray, rows: np.ndarray, among: np.ndarray) -> Nearest | None:
    """For each image of `rows`, the nearest of `among` other than itself; None if there is none.

    `vectors` [N, D] are L2-normalised; a memory map is read one block at a time. If there are more than `SAMPLE` rows, that
    many are drawn with a fixed seed.
    """
    if len(rows) > SAMPLE:
        rows = np.sort(np.random.default_rng(0).choice(rows, SAMPLE, replace=False))
    best = np.full(len(rows), -np.inf, dtype=np.float32)
    others = np.zeros(len(rows), dtype=np.int64)
    for begin in progress(range(0, len(among), BLOCK[1]), desc="compare images", unit="blocks"):
        block = among[begin : begin + BLOCK[1]]
        columns = np.asarray(vectors[block], dtype=np.float32)
        for start in range(0, len(rows), BLOCK[0]):
            part = slice(start, start + BLOCK[0])
            similarity = np.asarray(vectors[rows[part]], dtype=np.float32) @ columns.T
            similarity[rows[part][:, None] == block] = -np.inf
            place = similarity.argmax(1)
            found = similarity[np.arange(len(place)), place]
            better = found > best[part]
            best[part] = np.where(better, found, best[part])
            others[part] = np.where(better, block[place], others[part])
    found = np.isfinite(best)
    return Nearest(rows[found], others[found], np.minimum(best[found], 1.0)) if found.any() else None


def same_captions(captions: pd.DataFrame) -> dict[str, int]:
    """Count the test captions that, ignoring case and whitespace, another split's image or another test image has too."""
    text = captions["text"].str.casefold().str.split().str.join(" ")
    test = captions["split"] == "test"
    elsewhere = text[test].isin(set(text[~test]))
    images = captions[test].groupby(text[test])["image_id"].nunique()
    return {"across": int(elsewhere.sum()), "within": int((text[test].map(images) > 1).sum())}
