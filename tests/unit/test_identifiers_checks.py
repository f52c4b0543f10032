"""What no identifier may lose or mix up, and the checks that find it in a table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from grace.data.tables import load_dataset
from grace.identifiers import identifiers
from grace.identifiers.base import (
    identifier_tokens,
    load_identifiers,
    read_tokenizer,
)
from grace.identifiers.checks import check_identifiers
from grace.identifiers.tree import trie
from grace.identifiers.tree.file import open_trie
from grace.system.errors import GraceError
from tests.unit import identifier_tables
from tests.unit.identifier_tables import SMALL, rewrite_captions, rewrite_queries

tokenizer = identifier_tables.tokenizer


def test_defect_01_identifiers_with_id_inside_reach_their_image(make, tiny, tokenizer_folder: Path, tmp_path: Path):
    """Captions that hold "id" (riding, outside) are token ids with a leaf; parsing text at "id" would lose them."""
    table = make("semantic").table
    holding = table[table["text"].str.contains("id") & (table["split"] == "test")]
    assert len(holding) > 5
    trie(identifiers=tmp_path / "ids", tokenizer=tokenizer_folder, output=tmp_path / "trie.safetensors")
    tree = open_trie(tmp_path / "trie.safetensors")
    for row in holding.itertuples():
        assert row.image_id in tree.images_of(row.tokens)


@pytest.mark.parametrize("text", ["a dog # 12 runs", "rider #id# 3", "id id id", "caption: a # <image>id 1 3"])
def test_defect_04_hash_and_id_in_captions_change_nothing(make, tiny, text: str):
    """Caption and identifier are columns of a table, never one text that is joined with '#' and split again."""

    def change(captions: pd.DataFrame) -> None:
        captions["text"] = [f"{text} {number}" for number in range(len(captions))]

    rewrite_captions(tiny["dataset"], change)
    captions = load_dataset(tiny["dataset"]).captions_of("train")
    assert set(captions["text"]) <= {f"{text} {number}" for number in range(108)}
    table = make("semantic").table
    train = table[table["split"] == "train"]
    assert sorted(train["text"]) == sorted(captions["text"])
    assert dict(zip(train["text"], train["image_id"], strict=True)) == dict(
        zip(captions["text"], captions["image_id"], strict=True)
    )


@pytest.mark.parametrize("scheme", ["numeric", "string"])
def test_defect_05_train_numbers_cover_the_range_of_the_gallery(make, scheme: str):
    """A file that has all train images before all test images must not give the gallery the numbers nobody saw."""
    table = make(scheme).table
    number = table["text"].str.replace(" ", "").astype(int)
    train, test = number[table["split"] == "train"], number[table["split"] == "test"]
    assert test.min() < 15 and train.max() > 35
    assert number.tolist() != sorted(number)
    tens = set(test // 10)
    assert tens <= set(train // 10)


def test_defect_06_nothing_is_cut(make, tiny, tokenizer_folder: Path, tmp_path: Path):
    """An identifier of 500 words keeps every token in table and trie; a tokenizer told to cut is overruled."""
    long = " ".join(f"word{number}" for number in range(500))

    def change(queries: pd.DataFrame) -> pd.DataFrame:
        queries.loc[queries["image_id"] == "im45", "text"] = long
        return queries

    rewrite_queries(tiny["pseudo_queries"], change)
    import shutil

    cutting = tmp_path / "cutting"
    shutil.copytree(tokenizer_folder, cutting)
    content = json.loads((cutting / "tokenizer.json").read_text())
    content["truncation"] = {"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0}
    (cutting / "tokenizer.json").write_text(json.dumps(content))
    identifiers(scheme="semantic", seed=0, tokenizer=cutting, output=tmp_path / "ids", settings=SMALL, **tiny)
    row = load_identifiers(tmp_path / "ids").table.query("image_id == 'im45'").iloc[0]
    assert len(row["tokens"]) > 1000
    trie(identifiers=tmp_path / "ids", tokenizer=cutting, output=tmp_path / "trie.safetensors")
    tree = open_trie(tmp_path / "trie.safetensors")
    assert tree.depth == len(row["tokens"])
    assert tree.images_of(row["tokens"]) == ["im45"]


def test_defect_06_a_cut_identifier_is_found(make, tiny, tokenizer):
    table = make("semantic").table
    images = load_dataset(tiny["dataset"]).images.query("split != 'val'")
    table.at[0, "tokens"] = table.at[0, "tokens"][:-1]
    with pytest.raises(
        GraceError, match="beside the wide river 4 0' of image im4 decode to 'people sit beside the wide river 4'"
    ):
        check_identifiers(table, images, tokenizer, "semantic", [])


def test_defect_07_new_tokens_are_recorded_with_their_ids(make, tokenizer_folder: Path, tmp_path: Path):
    """Training and inference add the same tokens in the same order and reach the ids that stand in the table."""
    tables = make("structured")
    assert tables.new_tokens and len(set(tables.new_tokens)) == len(tables.new_tokens)
    for _ in ("training", "inference"):
        tokenizer = read_tokenizer(tokenizer_folder)
        before = len(tokenizer)
        assert not set(tables.new_tokens) & set(tokenizer.get_vocab())
        assert tokenizer.add_tokens(load_identifiers(tmp_path / "ids").new_tokens) == len(tables.new_tokens)
        for row in tables.table.itertuples():
            assert tokenizer.convert_ids_to_tokens(row.tokens.tolist()) == [
                f"{part}>" for part in row.text.split(">")[:-1]
            ]
            assert tokenizer(row.text, add_special_tokens=False)["input_ids"] == row.tokens.tolist()
        assert set(np.concatenate(tables.table["tokens"].tolist())) == set(range(before, len(tokenizer)))


@pytest.mark.parametrize("scheme", ["numeric", "semantic", "structured", "atomic"])
def test_checks_fail_in_words(make, tiny, tokenizer, scheme: str):
    tables = make(scheme)
    images = load_dataset(tiny["dataset"]).images.query("split != 'val'")

    def refused(said: str, change) -> None:
        table = tables.table.copy()
        table["tokens"] = [tokens.copy() for tokens in table["tokens"]]
        table = change(table)
        with pytest.raises(GraceError, match=said):
            check_identifiers(table, images, tokenizer, scheme, tables.new_tokens)

    check_identifiers(tables.table, images, tokenizer, scheme, tables.new_tokens)
    last = tables.table["image_id"].iloc[-1]
    refused(f"image {last} has no identifier", lambda table: table[table["image_id"] != last])
    refused("has an identifier, but should have none", lambda table: table.assign(image_id=["im0", *table["image_id"][1:]])
            if scheme == "semantic" else pd.concat([table, table[:1].assign(image_id="im0")]))  # fmt: skip
    refused("appears twice|has two", lambda table: pd.concat([table, table[:1]]))
    if scheme != "atomic":

        def special(table: pd.DataFrame) -> pd.DataFrame:
            table.at[0, "tokens"] = np.array([*table.at[0, "tokens"], tokenizer.all_special_ids[0]], dtype=np.int32)
            return table

        refused("special token or unknown to the tokenizer", special)
        refused("decode to", lambda table: table.assign(text=["other", *table["text"][1:]]))
    if scheme != "semantic":

        def equal(table: pd.DataFrame) -> pd.DataFrame:
            table.at[1, "tokens"] = table.at[0, "tokens"]
            return table

        refused("appears twice", equal)


def test_a_tokenizer_that_cannot_hold_a_text_is_found(tmp_path: Path):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    few = Tokenizer(models.BPE(vocab={letter: place for place, letter in enumerate("Ġ01234")}, merges=[]))
    few.pre_tokenizer, few.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=few, additional_special_tokens=["<|endofchunk|>"])
    texts = [str(number) for number in range(6)]
    table = pd.DataFrame({
        "image_id": texts, "split": ["test"] * 6, "text": texts,
        "tokens": [np.array(tokens, dtype=np.int32) for tokens in identifier_tokens(fast, texts)],
    })  # fmt: skip
    with pytest.raises(GraceError, match="'5' of image 5 decode to ''"):
        check_identifiers(table, table, fast, "string", [])
