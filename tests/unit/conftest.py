"""Fixtures that several test files share: a tiny tokenizer, a tiny data set with embeddings and pseudo-queries."""

from __future__ import annotations

import os

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from grace.data.tables import write_dataset

CAPTIONS = [
    "a man riding a horse outside a barn",
    "two dogs run on the green field",
    "a small red circle below a blue square",
    "a child holds an umbrella in the rain",
    "people sit beside the wide river",
]
SHARED = Path(__file__).resolve().parents[3] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder ../shared beside the repository; a test that needs it is skipped where it is missing."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"{SHARED}/data is not on this machine")
    return SHARED


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level BPE tokenizer trained on a few captions, with the three special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<|endofchunk|>", "<image>", "<PAD>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(CAPTIONS * 4 + [f" {number}" for number in range(60)] * 2, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<PAD>", additional_special_tokens=special[:2], padding_side="right"
    )
    folder = tmp_path_factory.mktemp("tokenizer")
    fast.save_pretrained(folder)
    return folder


def make_dataset(folder: Path, train: int = 30, val: int = 4, test: int = 20) -> Path:
    """Write a data set of images that do not exist, val images first (as COCO's file has them)."""
    folder.mkdir(parents=True, exist_ok=True)
    splits = ["val"] * val + ["train"] * train + ["test"] * test
    images = pd.DataFrame({
        "image_id": [f"im{row}" for row in range(len(splits))], "split": splits,
        "file": [f"{row}.png" for row in range(len(splits))], "source_split": splits,
    })  # fmt: skip
    captions = pd.DataFrame([
        (f"c{row}_{place}", f"im{row}", split, f"{CAPTIONS[(row + place) % len(CAPTIONS)]} {row} {place}")
        for row, split in enumerate(splits)
        for place in range(2)
    ], columns=["caption_id", "image_id", "split", "text"])  # fmt: skip
    write_dataset(
        folder, images, captions, {"name": "tiny", "source": "test", "images_dir": "images", "license": "none"}
    )
    return folder


@pytest.fixture
def tiny(tmp_path: Path) -> dict[str, Path]:
    """Folders dataset, embeddings and pseudo_queries of a tiny data set."""
    folders = {name: tmp_path / name for name in ("dataset", "embeddings", "pseudo_queries")}
    make_dataset(folders["dataset"])
    for name in ("embeddings", "pseudo_queries"):
        folders[name].mkdir()
    rows = np.random.default_rng(0).normal(size=(54, 8)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    np.save(folders["embeddings"] / "image_embeddings.npy", rows)
    queries = pd.DataFrame([
        (f"im{row}", f"{CAPTIONS[(row + place) % 5]} seen {row}", -1.0) for row in range(34, 54) for place in range(3)
    ], columns=["image_id", "text", "score"])  # fmt: skip
    queries.to_parquet(folders["pseudo_queries"] / "pseudo_queries.parquet", index=False)
    return folders


@pytest.fixture
def make(tiny: dict[str, Path], tokenizer_folder: Path, tmp_path: Path):
    """A function that runs the stage identifiers on the tiny data set and reads its output."""
    from grace.identifiers import identifiers
    from grace.identifiers.base import load_identifiers
    from grace.workflow.config import Identifiers

    def run(scheme: str, seed: int = 0, settings: Identifiers | None = None, name: str = "ids", **other):
        identifiers(
            scheme=scheme, seed=seed, tokenizer=tokenizer_folder, output=tmp_path / name,
            settings=settings or Identifiers(clusters=3, leaf_size=3),
            **{**tiny, **other},
        )  # fmt: skip
        return load_identifiers(tmp_path / name)

    return run


@pytest.fixture
def with_val(tiny: dict[str, Path], make):
    """A function: identifiers of a scheme with those of val images, whose pseudo-queries are there too."""
    path = tiny["pseudo_queries"] / "pseudo_queries.parquet"
    queries = pd.read_parquet(path)
    more = pd.DataFrame([(f"im{row}", f"a val image seen {row}", -1.0) for row in range(4)], columns=queries.columns)
    pd.concat([queries, more]).to_parquet(path, index=False)
    return lambda scheme: make(scheme, val=True)


@pytest.fixture(scope="session")
def tiny_results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `results/scenes` as a run leaves it: a data set of 40 drawings, the baseline and four trained systems.

    Not to be changed. The systems are trained for a few steps and know next to nothing.
    """
    from tests.unit.tiny_results import make_results

    folder = tmp_path_factory.mktemp("tiny_results")
    make_results(folder / "results", ("atomic", "structured", "numeric", "semantic"))
    return folder
