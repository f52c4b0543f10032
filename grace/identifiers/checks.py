"""Checks that every table of identifiers must pass before it is written; a failed check raises a `GraceError`.

Run by the stage `identifiers`; the names of the checks passed are listed in `statistics.json`.
"""

from __future__ import annotations

import unicodedata
from typing import Any

import numpy as np
import pandas as pd

from grace.data.tables import SPLITS
from grace.identifiers.base import end_token_id, flatten, identifier_text
from grace.identifiers.tree.tree import Trie
from grace.system.errors import GraceError


def check_identifiers(
    table: pd.DataFrame, images: pd.DataFrame, tokenizer: Any, scheme: str, new_tokens: list[str]
) -> list[str]:
    """Check `table` (columns of identifiers.parquet) against the `images` that need one; return the checks passed."""
    where = f"{scheme} identifiers"
    _covered(table, images, where)
    _mapped(table, scheme, where)
    splits = [split for split in SPLITS if (images["split"] == split).any()]
    named = " and ".join([", ".join(splits[:-1]), splits[-1]])
    passed = [f"every {named} image has an identifier, no other image has one"]
    passed.append("a shared text maps to all its images" if scheme == "semantic" else "every identifier is unique")
    if scheme != "atomic":
        _ordinary_tokens(table, tokenizer, new_tokens, where)
        passed.append("no identifier contains a special token")
    flat, lengths = flatten(table["tokens"])
    end = None if scheme == "atomic" else end_token_id(tokenizer)
    Trie.from_arrays(flat, lengths, np.zeros(len(table), dtype=np.int64), ["-"], end)
    passed.append("identifiers with their end token are prefix-free")
    _decodable(table, tokenizer, scheme, new_tokens, where)
    passed.append("every identifier decodes to its whole text")
    return passed


def _covered(table: pd.DataFrame, images: pd.DataFrame, where: str) -> None:
    without = images[~images["image_id"].isin(table["image_id"])]
    if len(without):
        raise GraceError(f"{where}: image {without['image_id'].iloc[0]} has no identifier ({len(without)} such images)")
    split_of = pd.Series(images["split"].to_numpy(), index=images["image_id"].to_numpy())
    foreign = split_of.reindex(table["image_id"].to_numpy()).to_numpy() != table["split"].to_numpy()
    if foreign.any():
        image = table["image_id"].iloc[int(foreign.argmax())]
        raise GraceError(f"{where}: image {image} has an identifier, but should have none or is in another split")


def _mapped(table: pd.DataFrame, scheme: str, where: str) -> None:
    """One image per identifier; several for semantic, but no (image, identifier) twice."""
    keys = table["tokens"].map(lambda tokens: np.asarray(tokens, dtype=np.int32).tobytes())
    twice = (table["image_id"] + "\0" + table["text"]).duplicated() if scheme == "semantic" else keys.duplicated()
    if twice.any():
        row = table[twice.to_numpy()].iloc[0]
        raise GraceError(
            f"{where}: '{row['text']}' of image {row['image_id']} appears twice ({int(twice.sum())} such rows)"
        )
    if scheme != "semantic" and table["image_id"].duplicated().any():
        raise GraceError(
            f"{where}: image {table['image_id'][table['image_id'].duplicated()].iloc[0]} has two identifiers"
        )


def _ordinary_tokens(table: pd.DataFrame, tokenizer: Any, new_tokens: list[str], where: str) -> None:
    flat, lengths = flatten(table["tokens"])
    outside = (flat < 0) | (flat >= len(tokenizer) + len(new_tokens))
    bad = outside | np.isin(flat, np.asarray(tokenizer.all_special_ids, dtype=np.int64))
    if bad.any():
        row = table.iloc[int(np.repeat(np.arange(len(lengths)), lengths)[bad.argmax()])]
        raise GraceError(
            f"{where}: '{row['text']}' of image {row['image_id']} contains the token {int(flat[bad.argmax()])}, which is "
            "a special token or unknown to the tokenizer"
        )


def _decodable(table: pd.DataFrame, tokenizer: Any, scheme: str, new_tokens: list[str], where: str) -> None:
    if scheme == "atomic":
        decoded = [str(int(tokens[0])) for tokens in table["tokens"]]
    elif new_tokens:
        base = len(tokenizer)
        decoded = [
            "".join(new_tokens[token - base] if token >= base else "?" for token in tokens)
            for tokens in table["tokens"]
        ]
    else:
        decoded = identifier_text(tokenizer, table["tokens"])
    for image, text, back in zip(table["image_id"], table["text"], decoded, strict=True):
        # NFC: some tokenizers normalise their input.
        if text != back and unicodedata.normalize("NFC", text) != unicodedata.normalize("NFC", back):
            raise GraceError(
                f"{where}: the tokens of '{text}' of image {image} decode to '{back}': they were truncated, or the tokenizer "
                "cannot represent this text (use one with all bytes in its alphabet)"
            )
