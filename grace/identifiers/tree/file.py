"""The trie's file, `trie.safetensors`: its arrays, memory-mapped and never parsed.

Metadata: format, levels, fan_out, leaves, end, fingerprint of the identifier table, and the sha256 of everything.
`open_trie` hashes the content and checks the structure; without `verify` it only maps the file, for callers that have
already checked it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from itertools import pairwise
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from grace.identifiers.tree.names import Names
from grace.identifiers.tree.tree import ARRAYS, Trie
from grace.system.errors import GraceError
from grace.system.files import need, replacing

FORMAT = "grace-trie-2"
AGAIN = "run trie again"


def save_trie(tree: Trie, path: Path | str, fingerprint: str | None = None) -> None:
    """Write the tree as safetensors; `fingerprint`, if given, replaces the tree's."""
    tree = tree if fingerprint is None else dataclasses.replace(tree, fingerprint=fingerprint)
    tensors = {name: getattr(tree, name).cpu().contiguous() for name in ARRAYS}
    if tree.labels.dtype == torch.int16:
        # the actual type; int16 is a view for torch's operators
        tensors["labels"] = tensors["labels"].view(torch.uint16)
    tensors |= {"image_id_bytes": tree.image_ids.encoded.cpu(), "image_id_first": tree.image_ids.first.cpu()}
    metadata = {
        "format": FORMAT, "fingerprint": tree.fingerprint, "levels": json.dumps(tree.levels),
        "fan_out": json.dumps(tree.fan_out), "leaves": str(tree.leaves), "end": json.dumps(tree.end),
    }  # fmt: skip
    metadata["sha256"] = _digest(tensors, metadata)
    with replacing(Path(path)) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def open_trie(path: Path | str, verify: bool = True) -> Trie:
    """Memory-map a file written by `save_trie`.

    Raises a `GraceError` for a file in another format and, with `verify`, for one that has changed.
    """
    path = need(Path(path), "trie")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise GraceError(f"trie {path} is damaged or not a safetensors file ({error}); {AGAIN}") from None
    if metadata.get("format") != FORMAT:
        raise GraceError(f"{path} is not a trie of this version; {AGAIN}")
    if set(tensors) != {*ARRAYS, "image_id_bytes", "image_id_first"}:
        raise GraceError(f"trie {path} has the wrong arrays: {', '.join(sorted(tensors))}; {AGAIN}")
    if verify and metadata.get("sha256", "") != _digest(tensors, metadata):
        raise GraceError(f"trie {path} is damaged: its content does not match its sha256; {AGAIN}")
    names = Names(tensors["image_id_bytes"], tensors["image_id_first"])
    try:
        tree = Trie(
            **{name: tensors[name] for name in ARRAYS}, image_ids=names, levels=tuple(json.loads(metadata["levels"])),
            fan_out=tuple(json.loads(metadata["fan_out"])), leaves=int(metadata["leaves"]),
            end=json.loads(metadata["end"]), fingerprint=metadata["fingerprint"],
        )  # fmt: skip
        if tree.labels.dtype == torch.uint16:
            object.__setattr__(tree, "labels", tree.labels.view(torch.int16))
        problem = structure_problem(tree) if verify else None
    except (KeyError, ValueError, TypeError, IndexError, RuntimeError) as error:
        raise GraceError(f"trie {path} has unreadable arrays or metadata ({error}); {AGAIN}") from None
    if problem:
        raise GraceError(f"trie {path} is damaged: {problem}; {AGAIN}")
    return tree


def structure_problem(tree: Trie) -> str | None:
    """Describe what is wrong with the structure (shapes, order and bounds of every array), or return None."""
    for name in ARRAYS:
        kinds = (torch.int16, torch.int32) if name == "labels" else (torch.int32,)
        if getattr(tree, name).dtype not in kinds or getattr(tree, name).ndim != 1:
            return f"{name} is not a list of {kinds[-1]}"
    return _problem_of_nodes(tree) or _problem_of_leaves(tree) or _problem_of_names(tree)


def _problem_of_nodes(tree: Trie) -> str | None:
    nodes, inner = tree.nodes, len(tree.first) - 1
    if nodes < 2 or not 0 < inner < nodes:
        return "its arrays do not have the same number of nodes"
    children = tree.first.diff()
    if tree.first[0] != 1 or tree.first[-1] != nodes or (children < 0).any():
        return "first does not increase from 1 to the number of nodes"
    expected = [0, 1]
    while expected[-1] < inner and expected[-1] > expected[-2]:
        expected.append(int(tree.first[expected[-1]]))
    if expected[-1] != inner or [*expected, nodes] != list(tree.levels):
        return "levels do not match the nodes"
    if [int(children[begin:end].max()) for begin, end in pairwise(expected)] != list(tree.fan_out):
        return "fan_out does not match the nodes"
    labels = tree.tokens_into(torch.arange(nodes, device=tree.device))
    if labels[0] != 0 or (labels < 0).any():
        return "a label is not a token id"
    siblings = torch.ones(nodes, dtype=torch.bool, device=tree.device)
    siblings[0] = False
    siblings[tree.first[:-1][children > 0].long()] = False  # the first child of every node
    rises = torch.zeros(nodes, dtype=torch.bool, device=tree.device)
    rises[1:] = labels.diff() > 0
    if (siblings & ~rises).any():
        return "the children of a node are not in the order of their labels"
    return None


def _problem_of_leaves(tree: Trie) -> str | None:
    nodes, inner, leaf_nodes = tree.nodes, len(tree.first) - 1, tree.leaf_nodes
    if tree.uniform:
        if tree.leaves != nodes - inner:
            return "the number of leaves differs from the number of nodes in the last level"
    else:
        if len(leaf_nodes) != tree.leaves or (leaf_nodes.diff() < 1).any():
            return "the leaves are not in the order of their nodes"
        if leaf_nodes[0] < 1 or leaf_nodes[-1] >= nodes:
            return "a leaf is not a node"
        childless = torch.ones(nodes, dtype=torch.bool, device=tree.device)
        childless[:inner] = tree.first.diff() == 0
        if (childless & ~tree.is_leaf).any():
            return "a node has neither children nor images"
        if tree.end is None and (tree.is_leaf & ~childless).any():
            return "an identifier is a prefix of another, and there is no end token"
    number = len(tree.leaf_first) - 1 if len(tree.leaf_first) else len(tree.leaf_images)
    if number != tree.leaves:
        return "the number of leaves with images differs from the number of leaves"
    if len(tree.leaf_first):
        bounds = tree.leaf_first[[0, -1]].tolist()
        if bounds != [0, len(tree.leaf_images)] or (tree.leaf_first.diff() < 1).any():
            return "leaf_first does not increase from 0 to the number of images at leaves"
    if tree.leaf_images.min() < 0 or tree.leaf_images.max() >= len(tree.image_ids):
        return "a leaf refers to an image that does not exist"
    return None


def _problem_of_names(tree: Trie) -> str | None:
    first = tree.image_ids.first
    if first.dtype != torch.int64 or first[0] != 0 or first[-1] != len(tree.image_ids.encoded):
        return "the offsets of the image ids do not match their bytes"
    if (first.diff() < 0).any():
        return "the offsets of the image ids are not increasing"
    return None


def _digest(tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
    """sha256 (hex) of names, types, shapes and bytes of all tensors, and of the other metadata."""
    rest = {key: value for key, value in metadata.items() if key != "sha256"}
    digest = hashlib.sha256(json.dumps(rest, sort_keys=True).encode("utf-8"))
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {list(tensors[name].shape)};".encode())
        digest.update(tensors[name].contiguous().numpy().data)
    return digest.hexdigest()
