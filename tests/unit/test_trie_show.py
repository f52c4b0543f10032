"""`trie show`: the path of every image leads to it, and a prefix that is not there says so."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from rich.console import Console

from grace.identifiers import identifiers
from grace.identifiers.base import load_identifiers
from grace.identifiers.tree import trie
from grace.identifiers.tree.file import open_trie
from grace.identifiers.tree.show import leaves_below, show
from grace.system.errors import GraceError
from grace.workflow.config import Identifiers


@pytest.fixture(params=["structured", "numeric", "atomic"])
def made(request, tiny: dict, tokenizer_folder: Path, tmp_path: Path) -> dict:
    folder, file = tmp_path / "identifiers", tmp_path / "trie.safetensors"
    identifiers(
        scheme=request.param, seed=0, dataset=tiny["dataset"], tokenizer=tokenizer_folder, output=folder,
        embeddings=tiny["embeddings"], pseudo_queries=tiny["pseudo_queries"], settings=Identifiers(clusters=3, leaf_size=4),
    )  # fmt: skip
    trie(identifiers=folder, tokenizer=tokenizer_folder, output=file)
    return {"trie": file, "identifiers": folder, "tokenizer": tokenizer_folder}


def printed(prefix: str, made: dict) -> str:
    console = Console(file=io.StringIO(), width=200)
    show(prefix=prefix, console=console, **made)
    return console.file.getvalue()


def test_every_identifier_leads_to_its_image(made: dict) -> None:
    gallery = load_identifiers(made["identifiers"]).of_split("test")
    assert f"root: {len(gallery)} identifiers" in printed("", made)
    for text, image in list(zip(gallery["text"], gallery["image_id"], strict=True))[:5]:
        said = printed(text, made)
        assert image in said and "1 identifiers" in said


def test_leaves_below_is_what_the_children_say(made: dict) -> None:
    tree = open_trie(made["trie"])
    for node in range(tree.nodes):
        children = tree.children(node)[1].tolist()
        parts = [leaf for part in leaves_below(tree, children) for leaf in part]
        own = [int(tree.leaf_numbers(torch.tensor(node)))] if tree.images_at(node) else []
        assert sorted(leaves_below(tree, [node])[0]) == sorted(parts + own)


def test_a_prefix_that_is_not_there_is_told(made: dict) -> None:
    assigned = load_identifiers(made["identifiers"])
    train = assigned.of_split("train")["text"]
    gallery = set(assigned.of_split("test")["text"])
    absent = next(text for text in train if text not in gallery)
    with pytest.raises(GraceError, match=r"no identifier in the gallery starts with .*: only the first"):
        printed(absent, made)
    if assigned.scheme == "atomic":
        with pytest.raises(GraceError, match="class number"):
            printed("²", made)
        with pytest.raises(GraceError, match="no identifier in the gallery"):
            printed("99999999999", made)
    if assigned.scheme == "structured":
        with pytest.raises(GraceError, match="sequence of tokens"):
            printed("abc", made)
