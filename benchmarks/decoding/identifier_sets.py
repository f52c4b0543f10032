"""Seeded sets of distinct identifiers of equal length, in the three shapes that are compared."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Shape:
    """Identifiers of `depth` tokens, each from `width` tokens per position out of `vocabulary`."""

    depth: int
    width: int
    vocabulary: int
    told: str


SHAPES = {
    "k256_L4": Shape(4, 256, 1024, "k = 256, L = 4 over 1,024 tokens"),
    "k32_L5": Shape(5, 32, 50_000, "k = 32, L = 5 over 50,000 tokens"),
    "digits_L8": Shape(8, 10, 10, "digits, L = 8"),
}


def identifier_set(name: str, number: int, seed: int = 0) -> np.ndarray:
    """`number` distinct identifiers in random order: tokens, int64 [number, depth]; sets of one shape share its alphabets."""
    shape = SHAPES[name]
    space = shape.width**shape.depth
    if number > space:
        raise ValueError(f"the shape {name} has only {space} identifiers, not {number}")
    rng = np.random.default_rng([seed, number])
    codes = np.empty(0, dtype=np.int64)
    while len(codes) < number:
        lacking = number - len(codes)
        codes = np.concatenate([codes, rng.integers(0, space, int(1.2 * lacking * space / (space - len(codes))) + 16)])
        codes.sort()
        codes = codes[np.concatenate([[True], codes[1:] != codes[:-1]])]
    rng.shuffle(codes)
    codes = codes[:number]
    tokens = np.empty((number, shape.depth), dtype=np.int64)
    for place, alphabet in reversed(list(enumerate(alphabets(name)))):
        tokens[:, place] = alphabet[codes % shape.width]
        codes //= shape.width
    return tokens


def alphabets(name: str) -> np.ndarray:
    """The sorted tokens of every position, int64 [depth, width]; distinct between positions if there are enough."""
    shape = SHAPES[name]
    if shape.vocabulary < shape.depth * shape.width:
        return np.tile(np.arange(shape.width), (shape.depth, 1))
    chosen = np.random.default_rng(0).permutation(shape.vocabulary)[: shape.depth * shape.width]
    return np.sort(chosen.reshape(shape.depth, shape.width), axis=1)


def prefixes(tokens_SL: np.ndarray, number: int, seed: int = 1) -> list[list[int]]:
    """Prefixes of every length from 0 to L, about one in five with a wrong last token; the empty one first."""
    rng = np.random.default_rng(seed)
    rows, depth = rng.integers(0, len(tokens_SL), number), tokens_SL.shape[1]
    wrong = rng.random(number) < 0.2
    out: list[list[int]] = [[]]
    for place, row in enumerate(rows.tolist()):
        prefix = tokens_SL[row, : 1 + place % depth].tolist()
        if wrong[place]:
            prefix[-1] = int(tokens_SL[rng.integers(0, len(tokens_SL)), len(prefix) - 1])
        out.append(prefix)
    return out
