"""Statistics of a table of identifiers, `statistics.json`: lengths, fan-out and balance of every level, duplicates.

Run by the stage `identifiers`; read by `report`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import torch

from grace.identifiers.base import closed, flatten
from grace.identifiers.tree.tree import Trie


def statistics(table: pd.DataFrame, scheme: str, seed: int, end: list[int], checks: list[str]) -> dict[str, Any]:
    """The content of statistics.json.

    lengths: number of identifiers by length in tokens, without the end token. fan_out: for each level of the tree of all
    identifiers (including train images, with the end token), the number of nodes with children, and their minimum, median
    and maximum number of children; gallery_fan_out: the same for the test split only. tree: depth and balance, see
    `tree_shape`. duplicates: identifiers that map to several images, and the images that have only such identifiers (no
    search can tell these apart).
    """
    _, lengths = flatten(table["tokens"])
    keys = table["tokens"].map(lambda tokens: np.asarray(tokens, dtype=np.int32).tobytes())
    images_of = table.groupby(keys, sort=False)["image_id"].nunique()
    shared = keys.map(images_of) > 1
    ambiguous = shared.groupby(table["image_id"]).all()
    values, counts = np.unique(lengths, return_counts=True)
    return {
        "scheme": scheme,
        "seed": seed,
        "images": int(table["image_id"].nunique()),
        "identifiers": len(table),
        "splits": {str(split): int(count) for split, count in table.groupby("split")["image_id"].nunique().items()},
        "lengths": {str(value): int(count) for value, count in zip(values, counts, strict=True)},
        "fan_out": fan_out(table, end),
        "gallery_fan_out": fan_out(table[table["split"] == "test"], end),
        "tree": tree_shape(table),
        "duplicates": {"identifiers": int((images_of > 1).sum()), "images": int(ambiguous.sum())},
        "checks": checks,
    }


def fan_out(table: pd.DataFrame, end: list[int]) -> list[dict[str, float]]:
    """One row per level: level, nodes (with children), min, median, max of their children."""
    if not len(table):
        return []
    flat, lengths = flatten(table["tokens"])
    tree = Trie.from_arrays(flat, lengths, np.zeros(len(table), dtype=np.int64), ["-"], end[0] if end else None)
    ends = tree.is_leaf if not tree.uniform else torch.arange(tree.nodes) >= tree.levels[-2]
    number = ends.int() if end else torch.zeros(tree.nodes, dtype=torch.int32)  # the end token counts as a child
    number[: len(tree.first) - 1] += tree.first.diff()
    rows: list[dict[str, float]] = []
    for level, (begin, stop) in enumerate(pairwise(tree.levels if end else tree.levels[:-1])):
        children = number[begin:stop].numpy()
        children = children[children > 0]
        rows.append({
            "level": level, "nodes": len(children), "min": int(children.min()), "median": float(np.median(children)),
            "max": int(children.max()),
        })  # fmt: skip
    return rows


def tree_shape(table: pd.DataFrame) -> dict[str, Any]:
    """Depth and balance of the tree of all identifiers, without the end token.

    depth: minimum, mean and maximum number of tokens. levels: for each level, identifiers are grouped by their tokens up to
    it; given are the number of groups, their minimum, median and maximum size, and their evenness: the entropy of the sizes
    divided by the largest entropy possible for that number of groups (Pielou, 1966); 1 is a perfectly balanced level.
    """
    flat, lengths = flatten(table["tokens"])
    deepest = int(lengths.max())
    tokens = np.full((len(lengths), deepest), -1, dtype=np.int32)
    tokens[np.arange(deepest) < lengths[:, None]] = flat
    order = np.lexsort(tokens.T[::-1])
    tokens, reach = tokens[order], lengths[order]
    begins = np.zeros(len(tokens), dtype=bool)
    begins[0] = True
    levels: list[dict[str, float]] = []
    for level in range(deepest):
        begins[1:] |= tokens[1:, level] != tokens[:-1, level]
        starts = np.flatnonzero(begins)
        sizes = np.diff(starts, append=len(tokens))[reach[starts] > level]
        shares = sizes / sizes.sum()
        evenness = float(-(shares * np.log(shares)).sum() / np.log(len(sizes))) if len(sizes) > 1 else 1.0
        levels.append({
            "level": level, "groups": len(sizes), "min": int(sizes.min()), "median": float(np.median(sizes)),
            "max": int(sizes.max()), "evenness": round(evenness, 4),
        })  # fmt: skip
    depth = {"min": int(lengths.min()), "mean": round(float(lengths.mean()), 3), "max": deepest}
    return {"depth": depth, "levels": levels}


def level_alphabets(table: pd.DataFrame, end: list[int]) -> list[list[int]]:
    """Token ids that occur at each position of any identifier, with the end token where an identifier may end."""
    flat, lengths = flatten(closed(table["tokens"], end))
    positions = np.arange(len(flat)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    pairs = np.unique(positions << 32 | flat)
    cuts = np.searchsorted(pairs >> 32, np.arange(int(lengths.max()) + 1))
    return [(pairs[begin:end] & 0xFFFFFFFF).tolist() for begin, end in pairwise(cuts)]
