"""What all identifier schemes share: inputs, result, the conversion of text to tokens, and the table of identifiers.

An identifier is a tuple of token ids; its text is for people. `identifiers.parquet` has one row per (image, identifier):
image_id, split (train or test; val if trainings are validated), tokens (list of int32, without the end token), text.
`tokens.json` contains the scheme, the new tokens (`new_tokens`; the id of the i-th is len(tokenizer) + i) and the alphabet
of every level.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from grace.data.tables import DatasetTables
from grace.system.errors import GraceError
from grace.system.files import need, read_array, read_json, read_table
from grace.workflow.config import Identifiers

END_TOKEN = "<|endofchunk|>"
TABLE_COLUMNS = ["image_id", "split", "tokens", "text"]
ROWS_AT_ONCE = 10_000
"""Number of embeddings checked at a time."""


@dataclass(frozen=True)
class Inputs:
    """What a scheme may read.

    `images`: the images that need an identifier, train and test (and val if trainings are validated), index 0..n-1, with
    `row` = their row in the embeddings.
    """

    images: pd.DataFrame
    dataset: DatasetTables
    tokenizer: Any
    settings: Identifiers
    seed: int
    embeddings_folder: Path | None = None
    pseudo_queries_folder: Path | None = None

    @cached_property
    def embeddings(self) -> np.ndarray:
        """Embeddings of `images`, float32 [n, D]; a memory map of the file if these are all images of the data set."""
        if self.embeddings_folder is None:
            raise GraceError("this identifier scheme needs image embeddings: pass --embeddings")
        path = self.embeddings_folder / "image_embeddings.npy"
        array = read_array(path, "image embeddings")
        if array.ndim != 2 or len(array) != len(self.dataset.images):
            raise GraceError(
                f"image embeddings {path} have the shape {list(array.shape)}, but the data set has "
                f"{len(self.dataset.images)} images; run encode again"
            )
        rows = self.images["row"].to_numpy()
        if len(rows) < len(array) or array.dtype != np.float32:
            array = np.asarray(array[rows], dtype=np.float32)
        for start in range(0, len(array), ROWS_AT_ONCE):
            if not np.isfinite(array[start : start + ROWS_AT_ONCE]).all():
                raise GraceError(f"image embeddings {path} contain values that are not finite; run encode again")
        return array

    @cached_property
    def pseudo_queries(self) -> pd.DataFrame:
        """Pseudo-queries of the gallery images: image_id, text."""
        if self.pseudo_queries_folder is None:
            raise GraceError("this identifier scheme needs pseudo-queries: pass --pseudo-queries")
        path = self.pseudo_queries_folder / "pseudo_queries.parquet"
        return read_table(path, "pseudo-queries", ["image_id", "text"])


@dataclass(frozen=True)
class Assignment:
    """The result of a scheme: image `image[i]` (a row of `Inputs.images`) has the identifier `tokens[i]`."""

    image: Sequence[int] | np.ndarray
    tokens: list[list[int]]
    text: list[str]
    new_tokens: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class IdentifierTables:
    """The content of an identifiers folder."""

    folder: Path
    scheme: str
    table: pd.DataFrame
    new_tokens: list[str]
    levels: list[list[int]]

    def of_split(self, split: str) -> pd.DataFrame:
        """The rows of one split; the index keeps the row numbers of `table`."""
        return self.table[self.table["split"] == split]

    @cached_property
    def fingerprint(self) -> str:
        """sha256 (hex) of the table's content; cached, since hashing a million identifiers takes a second."""
        return fingerprint(self.table)


def load_identifiers(folder: Path | str) -> IdentifierTables:
    """Read `identifiers.parquet` and `tokens.json` from a folder written by the stage `identifiers`."""
    folder = need(folder, "folder of identifiers")
    table = read_table(folder / "identifiers.parquet", "table of identifiers", TABLE_COLUMNS)
    if not len(table):
        raise GraceError(f"table of identifiers {folder / 'identifiers.parquet'} is empty; run identifiers again")
    tokens = read_json(folder / "tokens.json", "tokens of the identifiers")
    known = isinstance(tokens, dict) and isinstance(tokens.get("scheme"), str)
    if not known or not all(isinstance(tokens.get(key), list) for key in ("new_tokens", "levels")):
        raise GraceError(f"{folder / 'tokens.json'} lacks scheme, new_tokens or levels; run identifiers again")
    return IdentifierTables(folder, tokens["scheme"], table, tokens["new_tokens"], tokens["levels"])


def fingerprint(table: pd.DataFrame) -> str:
    """sha256 (hex) of the content of an identifier table: images, splits, token ids and texts, in order."""
    flat, lengths = flatten(table["tokens"])
    digest = hashlib.sha256()
    for column in ("image_id", "split", "text"):
        digest.update("\0".join(table[column].tolist()).encode("utf-8") + b"\0\0")
    digest.update(lengths.astype("<i8").tobytes())
    digest.update(flat.astype("<i4").tobytes())
    return digest.hexdigest()


def flatten(sequences: Sequence[Sequence[int]] | pd.Series) -> tuple[np.ndarray, np.ndarray]:
    """Sequences as one int64 array of all their items and an int64 array of their lengths."""
    parts = sequences.tolist() if isinstance(sequences, pd.Series) else list(sequences)
    lengths = np.fromiter(map(len, parts), dtype=np.int64, count=len(parts))
    if all(isinstance(part, np.ndarray) for part in parts):  # as in a table read from a file
        joined = np.concatenate([np.zeros(0, dtype=np.int64), *parts])
        return joined.astype(np.int64, casting="same_kind"), lengths
    return np.fromiter(chain.from_iterable(parts), dtype=np.int64, count=int(lengths.sum())), lengths


def closed(sequences: Sequence[np.ndarray] | pd.Series, end: list[int]) -> list[np.ndarray]:
    """Identifiers with the end token appended; `end` is empty if the scheme has none (atomic)."""
    return [np.append(sequence, end).astype(np.int64) for sequence in sequences]


def read_tokenizer(folder: Path | str) -> Any:
    """Load the fast tokenizer of a local folder; never uses the network."""
    folder = need(folder, "tokenizer folder")
    need(folder / "tokenizer.json", "tokenizer file")
    from transformers import PreTrainedTokenizerFast  # imported here because it is slow

    try:
        if _is_generic(folder):
            return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        from transformers import AutoTokenizer  # imports torch's compiler and scikit-learn: three more seconds

        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the tokenizers library raises bare Exception for a broken file
        said = str(error).strip().splitlines()
        raise GraceError(f"tokenizer {folder} cannot be loaded ({said[0] if said else type(error).__name__})") from None
    if not tokenizer.is_fast:
        raise GraceError(f"tokenizer {folder} is not a fast tokenizer; run tokenizer again")
    return tokenizer


def _is_generic(folder: Path) -> bool:
    """Whether the folder's tokenizer has no model-specific class, as with those that the stage `tokenizer` trains."""
    config = folder / "tokenizer_config.json"
    said = read_json(config, "configuration of the tokenizer") if config.is_file() else {}
    return isinstance(said, dict) and said.get("tokenizer_class") == "PreTrainedTokenizerFast"


def end_token_id(tokenizer: Any) -> int:
    """The id of `<|endofchunk|>`, which ends every identifier."""
    number = tokenizer.get_vocab().get(END_TOKEN)
    if number is None or number not in tokenizer.all_special_ids:
        raise GraceError(f"the tokenizer has no special token {END_TOKEN}; run tokenizer again")
    return int(number)


def plain_tokens(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of `texts` as plain text: nothing added, nothing truncated.

    The name of a special token inside a text (a caption with `<image>`) becomes ordinary tokens, never that token.
    """
    if not len(texts):
        return []
    return tokenizer(
        list(texts), add_special_tokens=False, truncation=False, padding=False, split_special_tokens=True,
        return_attention_mask=False, return_token_type_ids=False, verbose=False,
    )["input_ids"]  # fmt: skip


def identifier_tokens(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of identifier texts as they follow `id` in a prompt: the first token includes the space before it.

    Prompts are assembled from token ids, `... id` + these ids + the end token, so that prompt, trie and decoding agree,
    whatever the tokenizer would merge in the joined text.
    """
    return plain_tokens(tokenizer, [f" {text}" for text in texts])


def identifier_text(tokenizer: Any, tokens: Sequence[Sequence[int]]) -> list[str]:
    """The texts of token ids: the inverse of `identifier_tokens`."""
    texts = tokenizer.batch_decode(
        [list(map(int, ids)) for ids in tokens], skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    return [text.removeprefix(" ") for text in texts]
