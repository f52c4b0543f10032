"""The stage `trie`: the prefix tree of the gallery, images of the split test alone.

Reads the folder of `identifiers` and the tokenizer's end token; writes `trie.safetensors`.

    python -m grace trie --identifiers DIR --tokenizer DIR --output FILE
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from grace.identifiers.base import end_token_id, flatten, load_identifiers, read_tokenizer
from grace.identifiers.tree.file import save_trie
from grace.identifiers.tree.tree import Trie
from grace.records.stage import stage
from grace.system.errors import GraceError


@stage("trie")
def trie(*, identifiers: Path, tokenizer: Path, output: Path) -> None:
    """Build the tree of the gallery's identifiers (split test) and write it to the file `output`."""
    tables = load_identifiers(identifiers)
    rows = tables.of_split("test")
    if not len(rows):
        raise GraceError(f"identifiers {identifiers} hold no image of the split test; run identifiers again")
    end = None if tables.scheme == "atomic" else end_token_id(read_tokenizer(tokenizer))
    save_trie(tree_of(rows, end), output, fingerprint=tables.fingerprint)


def tree_of(rows: pd.DataFrame, end: int | None) -> Trie:
    """The tree of some rows of an identifier table; `end` is the end token, None where the scheme has none (atomic)."""
    image_ids = rows["image_id"].unique().tolist()
    row_of = {image_id: row for row, image_id in enumerate(image_ids)}
    flat, lengths = flatten(rows["tokens"])
    return Trie.from_arrays(flat, lengths, rows["image_id"].map(row_of).to_numpy(), image_ids, end)
