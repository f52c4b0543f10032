"""The tables of a data set: what is written is read again, and everything wrong is said in words."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from grace.data import SOURCES, source
from grace.data.tables import load_dataset, write_dataset
from grace.system.errors import GraceError

SUMMARY = {"name": "tiny", "source": "test", "images_dir": "images", "license": "none"}


def tables() -> tuple[pd.DataFrame, pd.DataFrame]:
    images = pd.DataFrame(
        [("a", "train", "a.png", "restval"), ("b", "test", "sub/b.png", "test"), ("c", "val", "c.png", "val")],
        columns=["image_id", "split", "file", "source_split"],
    )
    captions = pd.DataFrame(
        [
            ("1", "a", "train", "one # id"),
            ("2", "b", "test", "two  dogs"),
            ("3", "b", "test", "dös"),
            ("4", "c", "val", "x"),
        ],
        columns=["caption_id", "image_id", "split", "text"],
    )
    return images, captions


def test_written_tables_are_read_again(tmp_path: Path):
    images, captions = tables()
    write_dataset(tmp_path, images, captions, {**SUMMARY, "restval": "train"})
    data = load_dataset(tmp_path)
    assert data.images.astype(object).equals(images.astype(object))
    assert data.captions.astype(object).equals(captions.astype(object))
    assert (tmp_path / "qrels.trec").read_text() == "2 0 b 1\n3 0 b 1\n"
    assert data.summary["counts"]["test"] == {"images": 1, "captions": 2}
    assert data.summary["restval"] == "train"
    assert data.image_path("sub/b.png") == tmp_path / "images/sub/b.png"
    assert data.gallery["image_id"].tolist() == ["b"] and data.gallery.index.tolist() == [1]
    assert data.captions_of("test")["text"].tolist() == ["two  dogs", "dös"]
    with pytest.raises(GraceError, match="did you mean 'test'"):
        data.captions_of("tset")


def test_absolute_images_dir(tmp_path: Path):
    write_dataset(tmp_path, *tables(), {**SUMMARY, "images_dir": "/somewhere/else"})
    assert load_dataset(tmp_path).image_path("a.png") == Path("/somewhere/else/a.png")


def change(table: str, row: int, column: str | list[str], value: object):
    def apply(images: pd.DataFrame, captions: pd.DataFrame) -> None:
        chosen = {"images": images, "captions": captions}[table]
        chosen[column] = chosen[column].astype(object)
        chosen.loc[row, column] = value

    return apply


@pytest.mark.parametrize(
    ("apply", "said"),
    [
        (change("captions", 0, "image_id", "zz"), "caption 1 has no image: image zz"),
        (change("captions", 3, "image_id", "a"), "caption 4 has the split 'val' but its image a has a different one"),
        (change("captions", 1, "caption_id", "1"), "caption id 1 appears twice"),
        (change("images", 1, "image_id", "a"), "image id a appears twice"),
        (change("images", 0, "image_id", "a b"), "without whitespace"),
        (change("images", 0, "image_id", ""), "without whitespace"),
        (change("captions", 0, "caption_id", 1), "caption_id of caption row 0 is not a string"),
        (change("captions", 0, "text", None), "text of caption row 0 is not a string"),
        (change("captions", 0, "text", "\ud800"), "text of caption row 0 is not a string"),
        (change("captions", 0, "text", "  "), "caption 1 is empty"),
        (change("images", 0, "split", "trian"), "unknown split 'trian'.*did you mean 'train'"),
        (change("images", 0, "split", "val"), "no image has the split 'train'"),
        (change("images", 1, "split", "val"), "no image has the split 'test'"),
        (change("images", 0, "file", "../a.png"), "inside the folder"),
        (change("images", 0, "file", "/a.png"), "inside the folder"),
        (change("captions", 3, ["image_id", "split"], ["a", "train"]), "image c has no caption"),
    ],
)
def test_everything_wrong_is_said_when_written_and_when_read(apply, said, tmp_path: Path):
    images, captions = tables()
    apply(images, captions)
    with pytest.raises(GraceError, match=said):
        write_dataset(tmp_path, images, captions, SUMMARY)
    assert list(tmp_path.iterdir()) == []
    try:
        images.to_parquet(tmp_path / "images.parquet")
        captions.to_parquet(tmp_path / "captions.parquet")
    except (UnicodeEncodeError, TypeError, ValueError):
        return  # such a table cannot stand in a file
    (tmp_path / "dataset.json").write_text(json.dumps(SUMMARY))
    with pytest.raises(GraceError, match=said):
        load_dataset(tmp_path)


def test_missing_and_broken_files(tmp_path: Path):
    with pytest.raises(GraceError, match="data set folder is missing"):
        load_dataset(tmp_path / "none")
    write_dataset(tmp_path, *tables(), SUMMARY)
    whole = (tmp_path / "captions.parquet").read_bytes()
    (tmp_path / "captions.parquet").write_bytes(whole[:100])
    with pytest.raises(GraceError, match="not a readable Parquet file"):
        load_dataset(tmp_path)
    (tmp_path / "captions.parquet").unlink()
    with pytest.raises(GraceError, match="table of captions is missing"):
        load_dataset(tmp_path)
    (tmp_path / "dataset.json").write_text('{"name": "tiny"}')
    with pytest.raises(GraceError, match="lacks the string 'source'"):
        load_dataset(tmp_path)
    (tmp_path / "dataset.json").write_text(json.dumps({**SUMMARY, "images_dir": "elsewhere"}))
    with pytest.raises(GraceError, match="images_dir must be"):
        load_dataset(tmp_path)


def test_registry_of_sources():
    for name in SOURCES:
        assert callable(source(name)) and source(name).__name__ == name
    with pytest.raises(GraceError, match="unknown data set source 'karpaty'; did you mean 'karpathy'"):
        source("karpaty")
