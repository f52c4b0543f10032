"""Settings, and changed captions and pseudo-queries, for the tests of identifiers."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from grace.data.tables import load_dataset, write_dataset
from grace.identifiers.base import (
    read_tokenizer,
)
from grace.workflow.config import Identifiers

SMALL = Identifiers(clusters=3, leaf_size=3)


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder: Path):
    return read_tokenizer(tokenizer_folder)


def rewrite_captions(folder: Path, change) -> None:
    data = load_dataset(folder)
    captions = data.captions.astype(object)
    change(captions)
    write_dataset(folder, data.images, captions, data.summary)


def rewrite_queries(folder: Path, change) -> None:
    path = folder / "pseudo_queries.parquet"
    change(pd.read_parquet(path).astype(object)).to_parquet(path, index=False)
