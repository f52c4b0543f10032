"""Prefixes that the model has read, for `best_first`: their keys and values; those of the prompt are kept once per query.

Legend: B queries, C open prefixes of a query, N prefixes kept of one depth, R rows of one pass, H heads, E width of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import DynamicCache

from grace.retrieval.hypotheses import branch

COPIES = 3
"""Copies of keys, values and logits during a pass: gathered, extended by a token, and in the operators' buffers."""


class ReadPrefixes:
    """Keys and values by depth (number of tokens after the prompt) and row. At depth 0 (the prompt) a row is a query."""

    def __init__(self, prompts: DynamicCache, logits_BV: Tensor) -> None:
        """`prompts`: the cache of B prompts of one length, which is not modified; `logits_BV`: the logits after the prompts."""
        self.prompts, self.logits_bytes = prompts, logits_BV[0].nbytes
        self.length = prompts.layers[0].keys.shape[2]
        self.kept: dict[
            int, list[tuple[Tensor, Tensor]]
        ] = {}  # by depth: keys and values of every layer, [N, H, depth, E]

    @property
    def bytes(self) -> int:
        """Memory of the kept prefixes, without the prompts."""
        return sum(tensor.nbytes for layers in self.kept.values() for pair in layers for tensor in pair)

    def rows_at_once(self, depth: int, memory: int) -> int:
        """How many prefixes of `depth` + 1 tokens one pass may read in `memory` bytes; at least 1."""
        prompt = sum(layer.keys[0].nbytes + layer.values[0].nbytes for layer in self.prompts.layers)
        row = prompt * (self.length + depth + 1) // self.length + self.logits_bytes
        return max(1, memory // (COPIES * row))

    def add(self, depth: int, cache: DynamicCache) -> int:
        """Keep the rows of `cache`, prefixes of `depth` tokens after their prompts; return the row of the first."""
        if depth == 0:
            return 0
        new = [(layer.keys[:, :, self.length :], layer.values[:, :, self.length :]) for layer in cache.layers]
        old = self.kept.get(depth)
        if old is None:
            self.kept[depth] = [(keys.clone(), values.clone()) for keys, values in new]
            return 0
        first = len(old[0][0])
        self.kept[depth] = [
            (torch.cat([one[0], more[0]]), torch.cat([one[1], more[1]])) for one, more in zip(old, new, strict=True)
        ]
        return first

    def drop_unused(self, depths_BC: Tensor, rows_BC: Tensor, real_BC: Tensor) -> Tensor:
        """Keep only the rows that real open prefixes continue (depth and row of each, [B, C]); return the new row numbers."""
        out = rows_BC.clone()
        for depth in list(self.kept):
            here = real_BC & (depths_BC == depth)
            used, numbers = rows_BC[here].unique(return_inverse=True)
            if len(used) == len(self.kept[depth][0][0]):
                continue
            out[here] = numbers
            self.kept[depth] = [(keys[used], values[used]) for keys, values in self.kept[depth]]
            if not len(used):
                del self.kept[depth]
        return out

    def cache_of(self, depth: int, rows_R: Tensor, queries_R: Tensor) -> DynamicCache:
        """The cache of R prefixes of `depth` tokens, prompts included."""
        cache = branch(self.prompts)
        for number, layer in enumerate(cache.layers):
            parts = (layer.keys[queries_R], layer.values[queries_R])
            if depth:
                kept = (own[rows_R] for own in self.kept[depth][number])
                parts = tuple(torch.cat(pair, 2) for pair in zip(parts, kept, strict=True))
            layer.keys, layer.values = parts
        return cache
