"""The prefix tree of a set of identifiers: level-order arrays that a search can walk on any device.

Nodes are numbered level by level, the root is 0, and the children of node n are the nodes `first[n] .. first[n + 1]` in
the order of their labels, so a node is one integer and no dictionary is needed. The end token of every identifier is not
stored: a node where an identifier ends is a leaf node, and one identifier may be a prefix of another. Written by
`grace.identifiers.tree.stage`, read by `grace.retrieval` and by `python -m grace trie show`.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from grace.identifiers.base import IdentifierTables, flatten
from grace.identifiers.tree.build import gather_leaves, number_nodes
from grace.identifiers.tree.checks import check_prefix_free, check_sequences
from grace.identifiers.tree.names import Names
from grace.system.errors import GraceError

ARRAYS = ("labels", "first", "leaf_nodes", "leaf_first", "leaf_images")


@dataclass(frozen=True, eq=False)
class Trie:
    """A prefix tree; its tensors live on one device.

    labels [nodes]: token of the edge into the node; int16 with the bits of a uint16 if every token is below 65,536, else
    int32 (`tokens_into` reads either). first [inner + 1], int32: the children of node n are the nodes
    first[n] .. first[n + 1]; nodes of the last level, numbered from `inner` on, have none. levels (depth + 2 numbers):
    the nodes at depth d are levels[d] .. levels[d + 1].

    The leaf map, int32: leaf l is the node leaf_nodes[l] (increasing; empty if the leaves are exactly the nodes of the last
    level), and its images are leaf_images[leaf_first[l] .. leaf_first[l + 1]], rows of image_ids (leaf_first is empty if
    every leaf has one image).

    depth: tokens of the longest identifier without the end token. end: the token after every identifier, or None if there is
    none (then the set is prefix-free). fan_out[d]: largest number of children of a node at depth d < depth. fingerprint: that
    of the identifier table from which the tree was built ("": none).
    """

    labels: Tensor
    first: Tensor
    leaf_nodes: Tensor
    leaf_first: Tensor
    leaf_images: Tensor
    levels: tuple[int, ...]
    fan_out: tuple[int, ...]
    leaves: int
    end: int | None
    image_ids: Names
    fingerprint: str = ""

    @classmethod
    def build(
        cls, sequences: Sequence[Sequence[int]], images: Sequence[int] | np.ndarray, image_ids: Sequence[str],
        end: int | None,
    ) -> Trie:  # fmt: skip
        """Build the tree of `sequences` (token ids without the end token); sequence i is for image image_ids[images[i]].

        A sequence may have several images and an image several sequences. Raises `GraceError` for an empty sequence, a
        negative token, the end token inside a sequence, and, if `end` is None, a sequence that is a prefix of another.
        """
        flat, lengths_S = flatten(sequences)
        return cls.from_arrays(flat, lengths_S, images, image_ids, end)

    @classmethod
    def from_arrays(
        cls, flat: np.ndarray, lengths_S: np.ndarray, images: Sequence[int] | np.ndarray,
        image_ids: Sequence[str] | Names, end: int | None,
    ) -> Trie:  # fmt: skip
        """Like `build`, for sequences given as one array of all tokens and their lengths (int [S])."""
        images = np.asarray(images)
        if not len(lengths_S) or len(images) != len(lengths_S):
            raise GraceError(
                f"a trie needs at least one sequence and an image for every sequence: got {len(lengths_S)} sequences "
                f"and {len(images)} images"
            )
        if images.min() < 0 or images.max() >= len(image_ids):
            raise GraceError(f"a trie's image rows must be 0..{len(image_ids) - 1}")
        check_sequences(flat, lengths_S, end)
        nodes = number_nodes(flat, lengths_S)
        inner = int(nodes.levels[-2])
        if end is None:
            check_prefix_free(flat, lengths_S, nodes, images, image_ids)
        leaf_nodes, leaf_first, leaf_images = gather_leaves(nodes, images)
        leaves = len(leaf_nodes) if len(leaf_nodes) else len(nodes.labels) - inner
        narrow = np.uint16 if nodes.labels.max(initial=0) < 2**16 else np.int32
        labels = nodes.labels.astype(narrow)
        arrays = (labels.view(np.int16) if narrow is np.uint16 else labels, nodes.first)
        tensors = [torch.from_numpy(np.ascontiguousarray(array)) for array in arrays]
        tensors += [torch.from_numpy(array.astype(np.int32)) for array in (leaf_nodes, leaf_first, leaf_images)]
        levels = tuple(nodes.levels.tolist())
        children = np.diff(nodes.first)
        fan_out = tuple(int(children[begin:stop].max()) for begin, stop in pairwise(levels[:-1]))
        names = image_ids if isinstance(image_ids, Names) else Names.of(image_ids)
        return cls(*tensors, levels=levels, fan_out=fan_out, leaves=leaves, end=end, image_ids=names)

    @property
    def depth(self) -> int:
        return len(self.levels) - 2

    @property
    def nodes(self) -> int:
        return len(self.labels)

    @property
    def device(self) -> torch.device:
        return self.labels.device

    @property
    def uniform(self) -> bool:
        """Whether all identifiers have the same length: the leaves are then the nodes of the last level."""
        return not len(self.leaf_nodes)

    def to(self, device: torch.device | str) -> Trie:
        """The same tree with its tensors on `device`.

        The counts that a search needs are computed here, on the host, so that no search has to wait for the device.
        """
        moved = dataclasses.replace(self, **{name: getattr(self, name).to(device) for name in ARRAYS})
        if moved.device != self.device:
            moved.__dict__.update(
                leaves_at=self.leaves_at,
                most_leaves=self.most_leaves,
                is_leaf=self.is_leaf.to(device),
                leaf_ranks=self.leaf_ranks.to(device),
            )
        return moved

    def tokens_into(self, nodes: Tensor) -> Tensor:
        """Tokens of the edges into `nodes` (int64, any shape; the root's is 0): int64."""
        labels = self.labels[nodes].long()
        return labels & 0xFFFF if self.labels.dtype == torch.int16 else labels

    def children(self, node: int) -> tuple[Tensor, Tensor]:
        """Tokens and node numbers (int64) of the children of one node, in the order of the tokens."""
        begin, end = (0, 0) if node >= len(self.first) - 1 else self.first[node : node + 2].tolist()
        nodes = torch.arange(begin, end, device=self.device)
        return self.tokens_into(nodes), nodes

    def walk(self, tokens: Sequence[int]) -> int | None:
        """The node that `tokens` lead to from the root, or None. For tests and single look-ups."""
        node = 0
        for token in tokens:
            labels, nodes = self.children(node)
            place = int(torch.searchsorted(labels, int(token))) if 0 <= int(token) < 2**31 else len(labels)
            if place == len(labels) or int(labels[place]) != int(token):
                return None
            node = int(nodes[place])
        return node

    def find(self, tokens_NL: Tensor) -> Tensor:
        """The nodes that N sequences lead to from the root: int64 [N], -1 for sequences that are not in the tree.

        `tokens_NL`: int64 [N, L] on the tree's device, -1 after the last token of a sequence.
        """
        nodes = torch.zeros(len(tokens_NL), dtype=torch.long, device=self.device)
        inner = len(self.first) - 1
        for tokens in tokens_NL.unbind(1):
            here = (tokens >= 0) & (nodes >= 0)
            parents = nodes.clamp(0, inner - 1)
            low, stop = self.first[parents].long(), self.first[parents + 1].long()
            stop = torch.where(nodes < inner, stop, low)  # nodes of the last level have no children
            high = stop
            # binary search for the first child whose label is not smaller
            for _ in range(max(self.fan_out).bit_length()):
                middle = (low + high) // 2
                smaller = (self.tokens_into(middle.clamp(max=self.nodes - 1)) < tokens) & (low < high)
                low, high = torch.where(smaller, middle + 1, low), torch.where(smaller, high, middle)
            found = (low < stop) & (self.tokens_into(low.clamp(max=self.nodes - 1)) == tokens)
            nodes = torch.where(here, torch.where(found, low, -1), nodes)
        return nodes

    def paths(self, nodes: Tensor) -> Tensor:
        """The tokens that lead to `nodes` (int64 [...]): int64 [..., depth], -1 after the last."""
        bounds = torch.tensor(self.levels[1:], device=nodes.device)
        left = torch.bucketize(nodes, bounds, right=True)  # tokens still to read: the depth of the node
        out = torch.full((*nodes.shape, self.depth), -1, dtype=torch.long, device=nodes.device)
        for place in reversed(range(self.depth)):
            here = left > place
            out[..., place] = self.tokens_into(nodes).masked_fill(~here, -1)
            parents = torch.searchsorted(self.first, nodes.int(), right=True) - 1
            nodes = torch.where(here, parents, nodes)
        return out

    def depth_of(self, node: int) -> int:
        """Tokens from the root to `node`."""
        return bisect_right(self.levels, node) - 1

    @cached_property
    def is_leaf(self) -> Tensor:
        """Whether an identifier ends at a node, bool [nodes]; empty if all identifiers have the same length."""
        flags = torch.zeros(0 if self.uniform else self.nodes, dtype=torch.bool, device=self.device)
        flags[self.leaf_nodes.long()] = True
        return flags

    @cached_property
    def leaves_at(self) -> tuple[int, ...]:
        """Number of leaves at each depth 0 .. depth."""
        if self.uniform:
            return (0,) * self.depth + (self.leaves,)
        cuts = np.searchsorted(self.leaf_nodes.cpu().numpy(), self.levels)
        return tuple(int(number) for number in np.diff(cuts))

    def leaf_numbers(self, nodes: Tensor) -> Tensor:
        """Leaf numbers of leaf nodes (int64, any shape): int64; undefined for other nodes."""
        if self.uniform:
            return nodes - self.levels[-2]
        return torch.searchsorted(self.leaf_nodes, nodes.int())

    @cached_property
    def leaf_ranks(self) -> Tensor:
        """The rank of every leaf in the order that breaks ties, int64: by the first id of its images, then by its number."""
        ranks = self.image_ids.ranks()[self.leaf_images.cpu().numpy()]
        if len(self.leaf_first):
            ranks = np.minimum.reduceat(ranks, self.leaf_first[:-1].cpu().numpy())
        places = np.empty(self.leaves, dtype=np.int64)
        places[np.argsort(ranks, kind="stable")] = np.arange(self.leaves)
        return torch.from_numpy(places).to(self.device)

    def leaf_order(self, nodes: Tensor) -> Tensor:
        """The `leaf_ranks` of leaf nodes (int64, any shape): int64; undefined for other nodes."""
        return self.leaf_ranks[self.leaf_numbers(nodes).clamp(0, self.leaves - 1)]

    def nodes_of(self, leaves: Tensor) -> Tensor:
        """Nodes of leaf numbers (int64, any shape): int64; the inverse of `leaf_numbers`."""
        return leaves + self.levels[-2] if self.uniform else self.leaf_nodes[leaves].long()

    def identifiers_at(self, leaves: Sequence[int]) -> list[list[int]]:
        """The identifiers of leaf numbers: token ids without the end token."""
        paths = self.paths(self.nodes_of(torch.tensor(leaves, dtype=torch.long, device=self.device)))
        return [[token for token in path if token >= 0] for path in paths.tolist()]

    def leaves_before(self, nodes: Tensor) -> Tensor:
        """How many leaves have a node number below each of `nodes` (int64, any shape, up to the number of nodes): int64."""
        if self.uniform:
            return (nodes - self.levels[-2]).clamp(min=0)
        return torch.searchsorted(self.leaf_nodes, nodes.int())

    @cached_property
    def most_leaves(self) -> tuple[np.ndarray, ...]:
        """For each depth 0 .. depth: the number of leaves at or below each node, in descending order, int64."""
        first, out = self.first.cpu().numpy().astype(np.int64), []
        ends = np.zeros(self.nodes, dtype=np.int64)
        ends[self.nodes_of(torch.arange(self.leaves, device=self.device)).cpu().numpy()] = 1
        below = np.zeros(1, dtype=np.int64)  # cumulative sums over the next level's nodes
        for start, stop in reversed(list(pairwise(self.levels))):
            numbers = ends[start:stop]
            if stop < self.nodes:
                bounds = first[start : stop + 1] - stop
                numbers = numbers + below[bounds[1:]] - below[bounds[:-1]]
            below = np.concatenate([[0], np.cumsum(numbers)])
            out.append(np.sort(numbers)[::-1])
        return tuple(reversed(out))

    def image_rows(self, leaf: int) -> list[int]:
        """Rows of image_ids of leaf number `leaf`, in increasing order."""
        begin, end = self.leaf_first[leaf : leaf + 2].tolist() if len(self.leaf_first) else (leaf, leaf + 1)
        return self.leaf_images[begin:end].tolist()

    def images_at_leaf(self, leaf: int) -> list[str]:
        """Ids of the images of leaf number `leaf`."""
        return [self.image_ids[row] for row in self.image_rows(leaf)]

    def images_at(self, node: int) -> list[str]:
        """Ids of the images of a leaf node; empty for any other node."""
        if not (node >= self.levels[-2] if self.uniform else bool(self.is_leaf[node])):
            return []
        return self.images_at_leaf(int(self.leaf_numbers(torch.tensor(node, device=self.device))))

    def images_of(self, identifier: Sequence[int]) -> list[str]:
        """Ids of the images whose identifier, without its end token, is `identifier`; empty if it is not in the tree."""
        node = self.walk(identifier)
        return [] if node is None else self.images_at(node)

    def check(self, identifiers: IdentifierTables) -> None:
        """Raise a `GraceError` if the tree was built from a different table than that of `identifiers`."""
        if identifiers.fingerprint != self.fingerprint:
            raise GraceError(
                f"the trie was built from a different identifier table than that of {identifiers.folder}; run trie again"
            )
