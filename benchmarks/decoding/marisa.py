"""marisa-trie, used as in GENRE: a token is a character, and allowed continuations are read from the keys below a prefix."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import marisa_trie
import numpy as np

SURROGATES = 0xD800, 0xE000
"""Code points that are not characters: higher tokens are shifted past them."""


class Marisa:
    """A static trie of the identifiers as strings. Continuations of prefixes of up to one token are kept in a table."""

    name = "marisa-trie"

    def __init__(self, trie: marisa_trie.Trie) -> None:
        self.trie = trie
        self.first: list[int] | None = None
        self.second: dict[int, list[int]] = {}

    @classmethod
    def build(cls, tokens_SL: np.ndarray) -> tuple[Marisa, float]:
        """The trie, and the seconds to build it from strings (which are made one by one, within that time)."""
        start = time.perf_counter()
        trie = marisa_trie.Trie(_strings(tokens_SL))
        seconds = time.perf_counter() - start
        out = cls(trie)
        out.first = np.unique(tokens_SL[:, 0]).tolist()
        pairs = np.unique(tokens_SL[:, 0] << 32 | tokens_SL[:, 1])
        for token in out.first:
            out.second[token] = (pairs[pairs >> 32 == token] & 0xFFFFFFFF).tolist()
        return out, seconds

    def allowed(self, prefix: list[int]) -> list[int]:
        """Tokens that may follow `prefix`; empty if it is complete, or not in the trie."""
        if self.first is not None and len(prefix) < 2:
            return self.first if not prefix else self.second.get(prefix[0], [])
        place = len(prefix)
        below = {key[place] for key in self.trie.iterkeys(_string(prefix)) if len(key) > place}
        return [_token(character) for character in below]

    def save(self, path: Path) -> None:
        self.trie.save(str(path))

    @classmethod
    def load(cls, path: Path) -> Marisa:
        return cls(marisa_trie.Trie().mmap(str(path)))


def _strings(tokens_SL: np.ndarray) -> Iterator[str]:
    """Every identifier as a string; converted in blocks via UTF-32, the fastest way in Python."""
    points = tokens_SL + 1  # no character 0
    points += (points >= SURROGATES[0]) * (SURROGATES[1] - SURROGATES[0])
    width = tokens_SL.shape[1]
    for first in range(0, len(points), 100_000):
        text = points[first : first + 100_000].astype("<u4").tobytes().decode("utf-32-le")
        for at in range(0, len(text), width):
            yield text[at : at + width]


def _string(tokens: list[int]) -> str:
    last = SURROGATES[0] - 1
    return "".join([chr(token + 1 if token < last else token + 1 + SURROGATES[1] - SURROGATES[0]) for token in tokens])


def _token(character: str) -> int:
    point = ord(character)
    return point - 1 if point < SURROGATES[0] else point - 1 - (SURROGATES[1] - SURROGATES[0])
