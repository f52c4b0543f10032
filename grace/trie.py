"""The prefix tree of the gallery's identifiers: level-order arrays that beam search walks on any device.

Nodes are numbered level by level, the root is 0, and the children of node n are the nodes `first[n] .. first[n+1]` in
the order of their labels, so a node is one integer and no dictionary is ever built. Reads the folder of `identifiers`
and the tokenizer's end token; writes `trie.safetensors`. Command:

    python -m grace trie --identifiers DIR --tokenizer DIR --output FILE

The tree holds the images of the split test alone. The end token closes every identifier, which makes the set
prefix-free: a leaf is never an inner node. (atomic: class numbers, all of one token, without an end token.)
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from grace.errors import GraceError
from grace.files import need, replacing
from grace.identifiers.base import closed, end_token_id, flatten, load_identifiers, read_tokenizer
from grace.trie_build import number_nodes

FORMAT = "grace-trie-1"
_INT = {"labels": torch.int32, "first": torch.int32, "leaf": torch.int32, "leaf_first": torch.int32}
_INT |= {"leaf_images": torch.int32, "levels": torch.int64}


@dataclass(frozen=True, eq=False)
class Trie:
    """A prefix tree; the tensors are int32 (levels: int64) and live on one device.

    labels [nodes]: token of the edge into the node, labels[0] = -1. first [nodes + 1]: the children of node n are the
    nodes first[n] .. first[n + 1]. leaf [nodes]: number of the leaf, or -1 for an inner node. leaf_first [leaves + 1]:
    the images of leaf l are leaf_images[leaf_first[l] .. leaf_first[l + 1]], rows of image_ids. levels [depth + 2]: the
    nodes at depth d are levels[d] .. levels[d + 1]. depth: tokens of the longest identifier with its end token.
    fan_out: most children of a node. fingerprint: of the identifier table that the tree is from ("": none).
    """

    labels: torch.Tensor
    first: torch.Tensor
    leaf: torch.Tensor
    leaf_first: torch.Tensor
    leaf_images: torch.Tensor
    levels: torch.Tensor
    image_ids: list[str]
    depth: int
    fan_out: int
    fingerprint: str = ""

    @classmethod
    def build(
        cls, sequences: Sequence[Sequence[int]], images: Sequence[int] | np.ndarray, image_ids: Sequence[str]
    ) -> Trie:
        """Build the tree of `sequences` (token ids with the end token); sequence i is of image image_ids[images[i]].

        The same sequence may come with several images and an image with several sequences. Raises `GraceError` for an
        empty sequence, a negative token and a sequence that another one begins with.
        """
        flat, lengths_S = flatten(sequences)
        return cls.from_arrays(flat, lengths_S, images, image_ids)

    @classmethod
    def from_arrays(
        cls, flat: np.ndarray, lengths_S: np.ndarray, images: Sequence[int] | np.ndarray, image_ids: Sequence[str]
    ) -> Trie:
        """`build` for sequences that are one array already: all their tokens, and their lengths (int [S])."""
        images = np.asarray(images)
        image_ids = list(image_ids)
        if not len(lengths_S) or len(images) != len(lengths_S):
            raise GraceError(
                f"a trie needs an image for every sequence, and one sequence at least: got {len(lengths_S)} sequences "
                f"and {len(images)} images"
            )
        if images.min() < 0 or images.max() >= len(image_ids):
            raise GraceError(f"a trie's image rows must be 0..{len(image_ids) - 1}")
        _check_sequences(flat, lengths_S)
        nodes = number_nodes(flat, lengths_S)
        children = np.diff(nodes.first)
        inner = children[nodes.ends] > 0
        if inner.any():
            at = int(inner.argmax())
            start = int(lengths_S[:at].sum())
            prefix = flat[start : start + lengths_S[at]].tolist()
            raise GraceError(
                f"identifiers are not prefix-free: {prefix} (image {image_ids[images[at]]}) is the beginning of "
                "another; every identifier must end with the end token and hold no other"
            )
        leaf, leaf_first, leaf_images = _leaves(nodes.ends, images, len(nodes.labels))
        arrays = {
            "labels": nodes.labels, "first": nodes.first, "levels": nodes.levels,
            "leaf": leaf, "leaf_first": leaf_first, "leaf_images": leaf_images,
        }  # fmt: skip
        tensors = {name: torch.from_numpy(np.ascontiguousarray(array)).to(_INT[name]) for name, array in arrays.items()}
        return cls(**tensors, image_ids=image_ids, depth=int(lengths_S.max()), fan_out=int(children.max()))

    @property
    def nodes(self) -> int:
        return len(self.labels)

    @property
    def leaves(self) -> int:
        return len(self.leaf_first) - 1

    @property
    def device(self) -> torch.device:
        return self.labels.device

    def to(self, device: torch.device | str) -> Trie:
        """The same tree with its tensors on `device`."""
        return dataclasses.replace(self, **{name: getattr(self, name).to(device) for name in _INT})

    def children(self, node: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens (int32) and node numbers (int64) of the children of one node, in the order of the tokens."""
        begin, end = self.first[node : node + 2].tolist()
        return self.labels[begin:end], torch.arange(begin, end, device=self.device)

    def walk(self, tokens: Sequence[int]) -> int | None:
        """The node that `tokens` lead to from the root, or None. For tests and single look-ups."""
        node = 0
        for token in tokens:
            if not 0 <= int(token) <= torch.iinfo(torch.int32).max:
                return None
            labels, _ = self.children(node)
            place = int(torch.searchsorted(labels, torch.tensor(int(token), dtype=torch.int32, device=self.device)))
            if place == len(labels) or int(labels[place]) != int(token):
                return None
            node = int(self.first[node]) + place
        return node

    @cached_property
    def level_fan_out(self) -> list[int]:
        """Most children of a node at each depth 0 .. depth - 1: what a search step has to look at."""
        bounds = self.levels.tolist()
        children = self.first.diff()
        return [int(children[begin:end].max()) for begin, end in pairwise(bounds[:-1])]

    def images_at(self, node: int) -> list[str]:
        """Ids of the images of a leaf node; of an inner node: none."""
        leaf = int(self.leaf[node])
        return [] if leaf < 0 else self.images_at_leaf(leaf)

    def images_at_leaf(self, leaf: int) -> list[str]:
        """Ids of the images of leaf number `leaf`."""
        begin, end = self.leaf_first[leaf : leaf + 2].tolist()
        return [self.image_ids[row] for row in self.leaf_images[begin:end].tolist()]

    def check(self, identifiers: Path | str) -> None:
        """Raise a `GraceError` if the tree was built from another table than that of the folder `identifiers`."""
        if load_identifiers(identifiers).fingerprint != self.fingerprint:
            raise GraceError(
                f"the trie was built from another identifier table than that of {identifiers}; run trie again"
            )

    def save(self, path: Path | str, fingerprint: str | None = None) -> None:
        """Write the tree as safetensors; `fingerprint` replaces that of the tree."""
        tensors = {name: getattr(self, name).cpu().contiguous() for name in _INT}
        encoded = [image_id.encode("utf-8") for image_id in self.image_ids]
        tensors["image_id_bytes"] = torch.from_numpy(np.frombuffer(b"".join(encoded), dtype=np.uint8).copy())
        tensors["image_id_first"] = torch.tensor(np.cumsum([0, *map(len, encoded)]), dtype=torch.int64)
        metadata = {
            "format": FORMAT, "fingerprint": self.fingerprint if fingerprint is None else fingerprint,
            "depth": str(self.depth), "fan_out": str(self.fan_out),
        }  # fmt: skip
        metadata["sha256"] = _digest(tensors, metadata)
        with replacing(path) as temporary:
            save_file(tensors, temporary, metadata=metadata)

    @classmethod
    def open(cls, path: Path | str) -> Trie:
        """Map a file that `save` wrote into memory and check it; damage is a `GraceError`."""
        path = need(path, "trie")
        again = "run trie again"
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError) as error:
            raise GraceError(f"trie {path} is damaged or no safetensors file ({error}); {again}") from None
        if metadata.get("format") != FORMAT:
            raise GraceError(f"{path} is not a trie of this version; {again}")
        if set(tensors) != {*_INT, "image_id_bytes", "image_id_first"}:
            raise GraceError(f"trie {path} has other arrays than a trie has: {', '.join(sorted(tensors))}; {again}")
        if metadata.pop("sha256", "") != _digest(tensors, metadata):
            raise GraceError(f"trie {path} is damaged: its content does not match its sha256; {again}")
        raw = tensors.pop("image_id_bytes").numpy().tobytes()
        cuts = tensors.pop("image_id_first").tolist()
        try:
            image_ids = [raw[begin:end].decode("utf-8") for begin, end in pairwise(cuts)]
            tree = cls(
                **tensors, image_ids=image_ids, depth=int(metadata["depth"]), fan_out=int(metadata["fan_out"]),
                fingerprint=metadata["fingerprint"],
            )  # fmt: skip
        except (KeyError, ValueError) as error:
            raise GraceError(f"trie {path} has unreadable image ids or metadata ({error}); {again}") from None
        problem = tree.problem()
        if problem:
            raise GraceError(f"trie {path} is damaged: {problem}; {again}")
        return tree

    def problem(self) -> str | None:
        """What is wrong with the structure, in words, or None: shapes, order and bounds of every array."""
        for name, kind in _INT.items():
            if getattr(self, name).dtype != kind or getattr(self, name).ndim != 1:
                return f"{name} is not a list of {kind}"
        nodes = self.nodes
        if nodes < 2 or len(self.first) != nodes + 1 or len(self.leaf) != nodes or len(self.leaf_first) < 2:
            return "its arrays do not have the same number of nodes"
        children = self.first.diff()
        if self.first[0] != 1 or self.first[-1] != nodes or (children < 0).any():
            return "first does not rise from 1 to the number of nodes"
        is_leaf = self.leaf >= 0
        if not torch.equal(is_leaf, children == 0):
            return "a node has neither children nor images, or both"
        if not torch.equal(self.leaf[is_leaf].long(), torch.arange(self.leaves, device=self.device)):
            return "the leaves are not numbered in order"
        if self.labels[0] != -1 or (self.labels[1:] < 0).any():
            return "a label is not a token id"
        siblings = torch.ones(nodes, dtype=torch.bool, device=self.device)
        siblings[0] = False
        siblings[self.first[:-1][children > 0].long()] = False  # the first child of every node
        rises = torch.zeros(nodes, dtype=torch.bool, device=self.device)
        rises[1:] = self.labels.diff() > 0
        if (siblings & ~rises).any():
            return "the children of a node are not in the order of their labels"
        ends = self.leaf_first[[0, -1]].tolist()
        if ends != [0, len(self.leaf_images)] or (self.leaf_first.diff() < 1).any():
            return "leaf_first does not rise from 0 to the number of images at leaves"
        if self.leaf_images.min() < 0 or self.leaf_images.max() >= len(self.image_ids):
            return "a leaf names an image that is not there"
        expected = [0, 1]
        while expected[-1] < nodes and expected[-1] > expected[-2]:
            expected.append(int(self.first[expected[-1]]))
        if (
            expected[-1] != nodes
            or expected != self.levels.tolist()
            or self.depth != len(expected) - 2
            or self.fan_out != int(children.max())
        ):
            return "levels, depth or fan-out do not fit the nodes"
        return None


def trie(*, identifiers: Path, tokenizer: Path, output: Path) -> None:
    """Build the tree of the gallery's identifiers (split test) and write it to the file `output`."""
    tables = load_identifiers(identifiers)
    rows = tables.of_split("test")
    if not len(rows):
        raise GraceError(f"identifiers {identifiers} hold no image of the split test; run identifiers again")
    end = [] if tables.scheme == "atomic" else [end_token_id(read_tokenizer(tokenizer))]
    image_ids = rows["image_id"].unique().tolist()
    row_of = {image_id: row for row, image_id in enumerate(image_ids)}
    tree = Trie.build(closed(rows["tokens"], end), rows["image_id"].map(row_of).to_numpy(), image_ids)
    tree.save(output, fingerprint=tables.fingerprint)


def _leaves(ends_S: np.ndarray, images_S: np.ndarray, nodes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """leaf, leaf_first and leaf_images (see `Trie`); the images of a leaf rise and do not repeat."""
    is_leaf = np.zeros(nodes, dtype=bool)
    is_leaf[ends_S] = True
    leaf = np.where(is_leaf, np.cumsum(is_leaf, dtype=np.int32) - 1, -1)
    leaves = int(leaf.max()) + 1
    if leaves == len(ends_S):  # no two sequences alike
        leaf_images = np.empty(leaves, dtype=np.int32)
        leaf_images[leaf[ends_S]] = images_S
        return leaf, np.arange(leaves + 1), leaf_images
    pairs = np.unique(leaf[ends_S].astype(np.int64) << 32 | images_S)
    counts = np.bincount(pairs >> 32, minlength=leaves)
    return leaf, np.concatenate([[0], np.cumsum(counts)]), pairs & 0xFFFFFFFF


def _check_sequences(flat: np.ndarray, lengths_S: np.ndarray) -> None:
    if not lengths_S.min():
        raise GraceError(f"identifier {int(lengths_S.argmin())} has no token")
    if flat.min() < 0 or flat.max() > np.iinfo(np.int32).max:
        raise GraceError("a token id of an identifier is negative or too large")


def _digest(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> str:
    """sha256 (hex) of names, types, shapes and bytes of all tensors, and of the metadata."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode("utf-8"))
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {list(tensors[name].shape)};".encode())
        digest.update(tensors[name].contiguous().numpy().data)
    return digest.hexdigest()
