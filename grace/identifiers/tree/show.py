"""Print what is below a prefix of an identifier in a trie.

Reads the trie, the identifiers folder and the tokenizer folder; prints a table.

    python -m grace trie show "<s0_3>" --trie FILE --identifiers DIR --tokenizer DIR
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from grace.identifiers.base import (
    IdentifierTables,
    identifier_text,
    identifier_tokens,
    load_identifiers,
    read_tokenizer,
)
from grace.identifiers.tree.file import open_trie
from grace.identifiers.tree.tree import Trie
from grace.system.errors import GraceError, did_you_mean

MOST = 8  # images listed in a row


def show(
    *, prefix: str, trie: Path, identifiers: Path, tokenizer: Path, rows: int = 50, console: Console | None = None
) -> None:
    """Print the children of the node at `prefix`: token, number of identifiers, and images below each."""
    tree, assigned, words = open_trie(trie), load_identifiers(identifiers), read_tokenizer(tokenizer)
    tree.check(assigned)
    tokens = prefix_tokens(prefix, assigned, words)
    node = node_of(tree, tokens, prefix, assigned, words)
    console = console or Console()
    labels, children = tree.children(node)
    below = leaves_below(tree, [node, *children.tolist()])
    title = token_texts(tokens, assigned, words) or "root"
    console.print(f"{title}: {len(below[0])} identifiers, {len(labels)} children", markup=False)
    if not len(labels):
        console.print("images: " + ", ".join(tree.images_at(node)), markup=False)
        return
    table = Table("token", "text", "identifiers", "images")
    for label, leaves in list(zip(labels.tolist(), below[1:], strict=True))[:rows]:
        images = list(dict.fromkeys(image for leaf in leaves for image in tree.images_at_leaf(leaf)))
        named = ", ".join(images[:MOST]) + (", ..." if len(images) > MOST else "")
        table.add_row(str(label), escape(token_texts([label], assigned, words)), str(len(leaves)), escape(named))
    console.print(table)
    if len(labels) > rows:
        console.print(f"and {len(labels) - rows} more children; use --rows to show more")


def node_of(tree: Trie, tokens: list[int], prefix: object, assigned: IdentifierTables, words) -> int:
    """The node that `tokens` lead to; a `GraceError` that names `prefix` and says how far the tree goes where there is none."""
    node = tree.walk(tokens)
    if node is None:
        reached = max(place for place in range(len(tokens)) if tree.walk(tokens[:place]) is not None)
        raise GraceError(
            f"no identifier in the gallery starts with the tokens of {prefix!r}: only the first {reached} of {len(tokens)} are "
            f"in the trie ({token_texts(tokens[:reached], assigned, words) or 'the root'}); a prefix must end at the end of "
            "a token"
        )
    return node


def prefix_tokens(prefix: str, assigned: IdentifierTables, words) -> list[int]:
    """Token ids of a prefix of an identifier's text."""
    if not prefix.strip():
        return []
    if assigned.scheme == "atomic":
        if not prefix.strip().isdecimal():
            raise GraceError(f"an atomic identifier is a class number, not {prefix!r}")
        return [int(prefix)]
    if not assigned.new_tokens:
        return identifier_tokens(words, [prefix])[0]
    number = {name: len(words) + place for place, name in enumerate(assigned.new_tokens)}
    names = re.findall(r"<[^<>]*>", prefix)
    if "".join(names) != re.sub(r"\s", "", prefix):
        raise GraceError(f"{prefix!r} is not a sequence of tokens such as {''.join(assigned.new_tokens[:1])}")
    for name in names:
        if name not in number:
            raise GraceError(f"no token {name!r} in these identifiers{did_you_mean(name, number)}")
    return [number[name] for name in names]


def token_texts(tokens: list[int], assigned: IdentifierTables, words) -> str:
    """The text of token ids, with new tokens by name."""
    if assigned.scheme == "atomic":
        return " ".join(map(str, tokens))
    if assigned.new_tokens:
        size = len(words)
        return "".join(assigned.new_tokens[t - size] if t >= size else words.convert_ids_to_tokens(t) for t in tokens)
    return identifier_text(words, [tokens])[0]


def leaves_below(tree: Trie, nodes: list[int]) -> list[list[int]]:
    """Leaf numbers below each node. A node's descendants at one depth form a range, so this walks levels, not nodes."""
    out = []
    for node in nodes:
        begin, end, leaves = node, node + 1, []
        while begin < end:
            here = torch.arange(begin, end, device=tree.device)
            if not tree.uniform:
                here = here[tree.is_leaf[begin:end]]
            if not tree.uniform or begin >= tree.levels[-2]:
                leaves += tree.leaf_numbers(here).tolist()
            if begin >= tree.levels[-2]:
                break
            begin, end = int(tree.first[begin]), int(tree.first[end])
        out.append(leaves)
    return out
