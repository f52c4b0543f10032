"""Karpathy's JSON: both dialects, restval, limits and folds, made here and as it is published."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from grace.data.karpathy import _fold, harmless, karpathy, parse_karpathy
from grace.data.skipped import read_skipped
from grace.data.tables import load_dataset
from grace.system.errors import GraceError
from grace.workflow.config import Karpathy
from tests.unit import karpathy_files
from tests.unit.karpathy_files import document, run

folder = karpathy_files.folder


def test_flickr_dialect(folder: Path):
    data = run(folder, document())
    assert data.images["image_id"].tolist() == ["0", "1", "2", "3", "4", "5"]
    assert data.images["split"].tolist() == ["val", "train", "train", "train", "test", "test"]
    assert data.images["source_split"].tolist()[3] == "restval"
    assert data.captions["caption_id"].tolist()[:3] == ["0", "1", "10"]
    assert (folder / "output/qrels.trec").read_text().splitlines()[0] == "40 0 4 1"
    assert data.image_path(data.images["file"][0]).is_file()
    assert data.summary["name"] == "tiny" and data.summary["restval"] == "train"


def test_coco_dialect_with_and_without_subfolders(folder: Path):
    data = run(folder, document("coco"))
    assert data.images["image_id"].tolist()[0] == "1000"
    assert data.images["file"].tolist()[0] == "val2014/0.png"
    for path in (folder / "images/val2014").iterdir():
        path.unlink()
    assert run(folder, document("coco")).images["file"].tolist()[0] == "0.png"


def test_restval_is_dropped_on_demand(folder: Path):
    data = run(folder, document(), restval="drop")
    assert data.images["image_id"].tolist() == ["0", "1", "2", "4", "5"]
    assert "30" not in data.captions["caption_id"].tolist()
    assert data.summary["restval"] == "drop"


def test_limits_are_seeded(folder: Path):
    content = document(splits="val " + "train " * 40 + "test " * 20)
    for row in range(6, 61):
        Image.new("L", (4, 4)).save(folder / f"images/{row}.png")
    kept = [run(folder, content, max_train=10, max_test=5, seed=seed).images for seed in (0, 0, 1)]
    assert kept[0].equals(kept[1]) and not kept[0].equals(kept[2])
    for images in kept:
        assert images["split"].value_counts().to_dict() == {"train": 10, "test": 5, "val": 1}
        assert images["image_id"].astype(int).is_monotonic_increasing
    assert kept[0]["image_id"].tolist()[1:11] != [str(row) for row in range(1, 11)]


def test_images_that_are_not_kept_need_not_exist(folder: Path):
    content = document()
    kept = run(folder, content, max_test=1).gallery["image_id"].iloc[0]
    content["images"][{"4": 5, "5": 4}[kept]]["filename"] = "none.png"
    assert run(folder, content, max_test=1).gallery["image_id"].tolist() == [kept]
    with pytest.raises(GraceError, match=r"none\.png is missing"):
        run(folder, content)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("  a dog .  ", "a dog ."),
        ("a dog\nruns\r\n", "a dog runs"),
        ("a \t dog", "a dog"),
        ("a  dog  runs # id", "a  dog  runs # id"),
        ("a\u2028dog\x00\x85", "a dog"),
        ("Ünïcode — dash\u00a0kept", "Ünïcode — dash\u00a0kept"),
    ],
)
def test_text_is_unaltered_but_for_white_space_that_breaks_lines(raw: str, text: str):
    assert harmless(raw) == text
    assert len(harmless(raw).splitlines()) == 1


def test_images_of_one_content_stay_and_are_counted(folder: Path):
    (folder / "images/4.png").write_bytes((folder / "images/1.png").read_bytes())  # test and train
    (folder / "images/3.png").write_bytes((folder / "images/2.png").read_bytes())  # train and train
    data = run(folder, document())
    assert len(data.images) == 6 and data.summary["skipped"] == 0
    assert data.summary["duplicates"] == {"identical_files": 2, "across_splits": 1, "pairs": [["1", "4"]]}


def test_the_five_folds_of_coco_1k_are_the_test_images_in_order():
    images = pd.DataFrame(
        {"image_id": [str(row) for row in range(5010)], "split": ["val", "test"] * 10 + ["test"] * 4990}
    )
    test = images[images["split"] == "test"]["image_id"].tolist()
    folds = [_fold(images, fold, "here") for fold in range(1, 6)]
    assert pd.concat(folds).query("split == 'test'")["image_id"].tolist() == test[:5000]
    assert all((fold["split"] == "val").sum() == 10 and len(fold) == 1010 for fold in folds)
    assert _fold(images, 0, "here") is images
    with pytest.raises(GraceError, match=r"fold 5 needs 5,000 test images, but there are 4,994"):
        _fold(images.iloc[12:], 5, "here")


def test_coco_mini(shared: Path, tmp_path: Path):
    source = shared / "data/coco_mini"
    karpathy(
        json_file=source / "dataset_coco_mini.json", images=source / "images", output=tmp_path / "out",
        settings=Karpathy(), name="coco_mini",
    )  # fmt: skip
    counts = load_dataset(tmp_path / "out").summary["counts"]
    assert counts["train"] == {"images": 80, "captions": 400}
    assert counts["val"] == {"images": 0, "captions": 0}
    assert counts["test"] == {"images": 79, "captions": 395}


def test_flickr8k(shared: Path, tmp_path: Path):
    """All 7,000 photographs are read."""
    source = shared / "data/flickr8k"
    karpathy(
        json_file=source / "dataset_flickr8k.json", images=source / "images", output=tmp_path / "out",
        settings=Karpathy(), name="flickr8k",
    )  # fmt: skip
    data = load_dataset(tmp_path / "out")
    assert data.summary["counts"] == {
        "train": {"images": 5000, "captions": 25_000},
        "val": {"images": 1000, "captions": 5000},
        "test": {"images": 1000, "captions": 5000},
    }
    assert data.summary["skipped"] == 0 and not len(read_skipped(tmp_path / "out"))


def test_flickr30k_counts(shared: Path):
    with gzip.open(shared / "data/flickr30k/dataset_flickr30k.json.gz") as file:
        content = json.load(file)
    images, captions = parse_karpathy(content, "flickr30k")
    raw = [sentence["raw"] for image in content["images"] for sentence in image["sentences"]]
    assert captions["text"].tolist() == [text.strip() for text in raw]  # no tab or line break in 155,070 captions
    assert images["split"].value_counts().to_dict() == {"train": 29_000, "val": 1_014, "test": 1_000}
    assert captions["split"].value_counts().to_dict() == {"train": 145_000, "val": 5_070, "test": 5_000}
