"""Duplicates inside a data set: near-duplicate images by their embeddings, identical captions.

Part of `python -m grace report`; reads nothing but its arguments. An image of the gallery that is a train image too, or a test
caption that is a train caption too, makes a score easier than it looks; two test images with one caption cannot both be right.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from grace.system.progress import progress

SAMPLE = 5_000
"""Test images that are compared, at most: the time is their number times the number of all images."""
BLOCK = (500, 20_000)
"""Test images and other images that are compared at a time."""


@dataclass(frozen=True)
class Nearest:
    """Of the compared test images: row of the image itself, of the nearest other one, and their cosine similarity."""

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
    """For each image of `rows` the nearest of `among` that is not itself; None where there is none.

    `vectors` [N, D] are L2-normalised, a memory map is read a block at a time. Of more than `SAMPLE` rows as many are drawn
    with a fixed seed.
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
    """Test captions that stand, but for case and white space, with an image of another split, or with another test image."""
    text = captions["text"].str.casefold().str.split().str.join(" ")
    test = captions["split"] == "test"
    elsewhere = text[test].isin(set(text[~test]))
    images = captions[test].groupby(text[test])["image_id"].nunique()
    return {"across": int(elsewhere.sum()), "within": int((text[test].map(images) > 1).sum())}
