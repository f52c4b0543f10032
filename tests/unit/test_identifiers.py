"""The five schemes, their checks in words, and the defects of identifiers. The tree of structured: test_structured."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from grace.data.tables import load_dataset, write_dataset
from grace.identifiers import identifiers, scheme_function
from grace.identifiers.base import (
    Inputs,
    identifier_text,
    identifier_tokens,
    load_identifiers,
    plain_tokens,
    read_tokenizer,
)
from grace.identifiers.checks import check_identifiers
from grace.identifiers.tree import trie
from grace.identifiers.tree.file import open_trie
from grace.system.errors import GraceError
from grace.training.objectives import OBJECTIVES
from grace.workflow.config import Identifiers
from grace.workflow.schemes import SCHEMES

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


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_scheme(make, scheme: str, tmp_path: Path, tokenizer):
    tables = make(scheme)
    assert tables.scheme == scheme
    assert sorted(set(tables.table["image_id"])) == sorted(f"im{row}" for row in range(4, 54))
    assert tables.of_split("test")["image_id"].nunique() == 20
    import pyarrow.parquet as parquet

    schema = parquet.read_schema(tmp_path / "ids/identifiers.parquet")
    assert schema.names == ["image_id", "split", "tokens", "text"]
    assert str(schema.field("tokens").type).startswith("list<") and "int32" in str(schema.field("tokens").type)
    figures = json.loads((tmp_path / "ids/statistics.json").read_text())
    assert figures["images"] == 50 and figures["identifiers"] == len(tables.table)
    assert sum(figures["lengths"].values()) == len(tables.table)
    assert len(figures["checks"]) >= 4
    for row in figures["fan_out"] + figures["gallery_fan_out"]:
        assert 1 <= row["min"] <= row["median"] <= row["max"]
    assert figures["fan_out"][0]["nodes"] == 1
    end = tokenizer.get_vocab()["<|endofchunk|>"]
    for position, alphabet in enumerate(tables.levels):
        used = {int(tokens[position]) for tokens in tables.table["tokens"] if len(tokens) > position}
        assert set(alphabet) - {end} == used
        assert (end in alphabet) == any(len(tokens) == position for tokens in tables.table["tokens"])


@pytest.mark.parametrize("scheme", SCHEMES)
def test_same_seed_same_bytes(make, scheme: str, tmp_path: Path):
    make(scheme, name="one")
    make(scheme, name="two")
    for file in ("identifiers.parquet", "tokens.json", "statistics.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


@pytest.mark.parametrize("scheme", ["numeric", "string", "structured"])
def test_another_seed_gives_other_identifiers(make, scheme: str):
    assert make(scheme, seed=0, name="one").fingerprint != make(scheme, seed=1, name="two").fingerprint


def test_numeric_and_string_are_one_running_number(make):
    apart, together = make("numeric", name="one").table, make("string", name="two").table
    assert sorted(together["text"].astype(int)) == list(range(50))
    assert apart["text"].str.replace(" ", "").tolist() == together["text"].tolist()
    assert all(set(text[1::2]) <= {" "} for text in apart["text"])
    plain = make("string", settings=Identifiers(shuffle=False), name="three").table
    assert plain["text"].tolist() == [str(number) for number in range(50)]


def test_the_blank_belongs_to_the_first_token(tokenizer):
    assert identifier_tokens(tokenizer, ["12"]) == [tokenizer(" 12", add_special_tokens=False)["input_ids"]]
    assert identifier_text(tokenizer, identifier_tokens(tokenizer, ["1 3 0"])) == ["1 3 0"]


def test_semantic_is_gold_captions_of_train_and_pseudo_queries_of_test(make, tiny):
    table = make("semantic").table
    captions = load_dataset(tiny["dataset"]).captions
    for split in ("val", "test"):
        assert not set(captions["text"][captions["split"] == split]) & set(table["text"])
    train = table[table["split"] == "train"]
    assert set(train["text"]) == set(captions["text"][captions["split"] == "train"])
    assert (train.groupby("image_id").size() == 2).all()
    assert (table[table["split"] == "test"].groupby("image_id").size() == 3).all()


def test_semantic_text_of_two_images_maps_to_both(make, tiny, tokenizer_folder: Path, tmp_path: Path):
    def change(queries: pd.DataFrame) -> pd.DataFrame:
        queries.loc[queries["image_id"].isin(["im40", "im50"]), "text"] = "a shared text"
        return queries

    rewrite_queries(tiny["pseudo_queries"], change)
    table = make("semantic").table
    shared = table[table["text"] == "a shared text"]
    assert shared["image_id"].tolist() == ["im40", "im50"]  # and once an image
    trie(identifiers=tmp_path / "ids", tokenizer=tokenizer_folder, output=tmp_path / "trie.safetensors")
    tree = open_trie(tmp_path / "trie.safetensors")
    assert tree.images_of(shared["tokens"].iloc[0]) == ["im40", "im50"]
    figures = json.loads((tmp_path / "ids/statistics.json").read_text())
    assert figures["duplicates"] == {"identifiers": 1, "images": 2}


def test_semantic_says_which_image_has_no_text(make, tiny):
    rewrite_queries(tiny["pseudo_queries"], lambda queries: queries[queries["image_id"] != "im44"])
    with pytest.raises(GraceError, match="test image im44 has no pseudo-query"):
        make("semantic")
    rewrite_queries(tiny["pseudo_queries"], lambda queries: queries.assign(text=" "))
    with pytest.raises(GraceError, match="a text of image im34 is empty"):
        make("semantic")


def test_special_tokens_in_a_caption_stay_text(make, tiny, tokenizer):
    odd = "a sign says <|endofchunk|> and <image> and <PAD> <s0_1>"
    rewrite_captions(
        tiny["dataset"], lambda captions: captions.__setitem__("text", [f"{odd} {n}" for n in range(len(captions))])
    )
    table = make("semantic").table
    special = set(tokenizer.all_special_ids)
    assert len(special) == 3
    assert not any(special & set(tokens.tolist()) for tokens in table["tokens"])
    assert identifier_text(tokenizer, table["tokens"])[0] == table["text"][0] and odd in table["text"][0]
    assert not special & set(plain_tokens(tokenizer, [odd])[0])


def test_atomic_is_the_order_of_the_class_matrix(make, tiny):
    table = make("atomic").table
    images = load_dataset(tiny["dataset"]).images
    assert [tokens.tolist() for tokens in table["tokens"]] == [[number] for number in range(50)]
    assert table["image_id"].tolist() == images["image_id"][images["split"] != "val"].tolist()


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


def test_errors_of_the_stage(make, tiny, tmp_path: Path):
    with pytest.raises(GraceError, match="unknown identifier scheme 'structure'; did you mean 'structured'"):
        make("structure")
    with pytest.raises(GraceError, match="pass --embeddings"):
        make("structured", embeddings=None)
    with pytest.raises(GraceError, match="image embeddings is missing"):
        make("structured", embeddings=tmp_path / "none")
    with pytest.raises(GraceError, match="pass --pseudo-queries"):
        make("semantic", pseudo_queries=None)
    np.save(tiny["embeddings"] / "image_embeddings.npy", np.full((54, 8), np.nan, dtype=np.float32))
    with pytest.raises(GraceError, match="not finite"):
        make("structured")
    np.save(tiny["embeddings"] / "image_embeddings.npy", np.ones((3, 8), dtype=np.float32))
    with pytest.raises(GraceError, match="run encode again"):
        make("structured")
    assert not (tmp_path / "ids").exists()
    assert make("numeric", embeddings=None, pseudo_queries=None).scheme == "numeric"


def test_every_scheme_of_the_registry_has_its_function_and_a_known_objective():
    assert {scheme.objective for scheme in SCHEMES.values()} <= set(OBJECTIVES)
    assert all(scheme_function(scheme).__name__ == scheme for scheme in SCHEMES)


def test_inputs_are_read_only_when_a_scheme_asks(tokenizer):
    inputs = Inputs(
        images=pd.DataFrame({"image_id": ["a", "b"], "split": ["train", "test"], "row": [0, 1]}),
        dataset=SimpleNamespace(), tokenizer=tokenizer, settings=SMALL, seed=0,
    )  # fmt: skip
    assert sorted(scheme_function("string")(inputs).text) == ["0", "1"]
