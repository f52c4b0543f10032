"""Karpathy's JSON: both dialects, restval, limits, and one clear error for everything that is wrong."""

from __future__ import annotations

import copy
import gzip
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from grace.data.karpathy import _fold, harmless, karpathy, parse_karpathy
from grace.data.skipped import read_skipped
from grace.data.tables import load_dataset
from grace.system.errors import GraceError
from grace.workflow.config import Karpathy


def document(dialect: str = "flickr", splits: str = "val train train restval test test") -> dict[str, Any]:
    images = []
    for row, split in enumerate(splits.split()):
        entry = {
            "imgid": row, "filename": f"{row}.png", "split": split,
            "sentences": [
                {"sentid": 10 * row + place, "imgid": row, "raw": f"caption {row} {place}", "tokens": []}
                for place in range(2)
            ],
        }  # fmt: skip
        if dialect == "coco":
            entry |= {"cocoid": 1000 + row, "filepath": "val2014"}
        images.append(entry)
    return {"images": images, "dataset": dialect}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with images/ (flat and in val2014/) and a place for the JSON file."""
    for path in ("images", "images/val2014"):
        (tmp_path / path).mkdir()
        for row in range(6):
            Image.new("RGB", (8, 8), (row * 40, 0, 0)).save(tmp_path / path / f"{row}.png")
    return tmp_path


def run(folder: Path, content: Any, **settings: Any):
    path = folder / "dataset.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    output = folder / "output"
    karpathy(json_file=path, images=folder / "images", output=output, settings=Karpathy(**settings), name="tiny")
    return load_dataset(output)


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


def at(path: str, value: Any = ...):
    """A change of the document: set `value` at a path like "images.0.split", or delete what stands there."""

    def apply(content: Any) -> None:
        *way, last = [int(step) if step.isdigit() else step for step in path.split(".")]
        for step in way:
            content = content[step]
        if value is ...:
            del content[last]
        else:
            content[last] = value

    return apply


@pytest.mark.parametrize(
    ("apply", "said"),
    [
        (at("images.1.filename", "gone.png"), "image gone.png is missing in"),
        (at("images.1.filename", "../dataset.json"), "inside the folder"),
        (at("images.1.filename", ""), "captions have no image"),
        (at("images.1.filename"), r"images\[1\] lacks 'filename'"),
        (at("images.1.filename", 5), "'filename' must be a string, not 5"),
        (at("images.1.filepath", 5), "'filepath' must be a string"),
        (at("images.1.sentences", []), "image 1 has no caption"),
        (at("images.1.sentences"), "lacks 'sentences'"),
        (at("images.1.sentences", "two dogs"), "'sentences' must be a list"),
        (at("images.1.sentences.0", "two dogs"), "must be an object"),
        (at("images.1.sentences.0.raw", " \n"), "caption 10 is empty"),
        (at("images.1.sentences.0.raw"), r"images\[1\].sentences\[0\] lacks 'raw'"),
        (at("images.1.sentences.0.raw", 3), "'raw' must be a string"),
        (at("images.1.sentences.0.raw", "\ud800 dog"), "half a character"),
        (at("images.1.sentences.0.sentid"), "lacks 'sentid'"),
        (at("images.1.sentences.0.sentid", True), "'sentid' must be an integer"),
        (at("images.1.sentences.0.sentid", 20), "caption id 20 appears twice"),
        (at("images.1.sentences.0.imgid", 77), "caption 10 says it belongs to image 77 but is listed under"),
        (at("images.1.imgid", 2), "belongs to image 1|image id 2 appears twice"),
        (at("images.1.imgid", 1.5), "'imgid' must be an integer"),
        (at("images.1.imgid", "a b"), "'imgid' must be an integer"),
        (at("images.1.imgid"), "lacks 'imgid'"),
        (at("images.1.split", "tset"), "unknown split 'tset'; did you mean 'test'"),
        (at("images.1.split", ["test"]), "'split' must be a string"),
        (at("images.1", 7), "must be an object"),
        (at("images", {}), "'images' must be a list"),
        (at("images", []), "no image has the split 'test'"),
        (at("images"), "lacks 'images'"),
    ],
)
def test_one_clear_error_and_no_output(apply, said: str, folder: Path):
    content = copy.deepcopy(document())
    apply(content)
    before = sorted(folder.iterdir())
    with pytest.raises(GraceError, match=said) as caught:
        run(folder, content)
    assert "\n" not in str(caught.value)
    assert [path for path in sorted(folder.iterdir()) if path not in before] == [folder / "dataset.json"]


def test_no_test_split_and_no_train_split(folder: Path):
    with pytest.raises(GraceError, match="no image has the split 'test'"):
        run(folder, document(splits="train val train"))
    with pytest.raises(GraceError, match="no image has the split 'train'"):
        run(folder, document(splits="restval test"), restval="drop")


@pytest.mark.parametrize("content", ["", '{"images": [{"imgid": 1', "[1, 2]", "nonsense", "[" * 100_000])
def test_truncated_and_foreign_json(content: str, folder: Path):
    with pytest.raises(GraceError, match=r"dataset\.json"):
        run(folder, content)
    assert not (folder / "output").exists()


@pytest.mark.parametrize("content", [b"this is text, not a picture", b"", b"\x89PNG\r\n\x1a\n broken", b"\xff\xd8\xff"])
def test_an_image_that_is_no_picture(content: bytes, folder: Path):
    (folder / "images/4.png").write_bytes(content)
    with pytest.raises(GraceError, match=r"4\.png cannot be read as JPEG") as caught:
        run(folder, document())
    assert "\n" not in str(caught.value)
    assert not (folder / "output").exists()


def test_an_error_keeps_the_output_of_before(folder: Path):
    run(folder, document())
    before = {path: path.read_bytes() for path in (folder / "output").iterdir()}
    with pytest.raises(GraceError):
        run(folder, "{")
    assert {path: path.read_bytes() for path in (folder / "output").iterdir()} == before


def test_an_unreadable_image_is_left_out_within_the_bound(folder: Path):
    (folder / "images/1.png").write_bytes(b"")
    data = run(folder, document(), max_skipped=0.2)
    assert data.images["image_id"].tolist() == ["0", "2", "3", "4", "5"]
    assert not data.captions["image_id"].eq("1").any() and data.summary["skipped"] == 1
    skipped = read_skipped(folder / "output")
    assert skipped[["image_id", "file", "reason"]].to_numpy().tolist() == [["1", "1.png", "empty"]]
    with pytest.raises(GraceError, match=r"1\.png cannot be read.*dataset\.karpathy\.max_skipped is 0\.1"):
        run(folder, document(), max_skipped=0.1)
    (folder / "images/2.png").unlink()  # a missing image is not a bad one: the data are not all there
    with pytest.raises(GraceError, match=r"2\.png is missing"):
        run(folder, document(), max_skipped=0.9)


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


def test_missing_inputs_and_dangerous_output(folder: Path):
    arguments = {"settings": Karpathy(), "name": "tiny"}
    (folder / "dataset.json").write_text(json.dumps(document()))
    paths = {"json_file": folder / "dataset.json", "images": folder / "images", "output": folder / "output"}
    with pytest.raises(GraceError, match="Karpathy JSON file is missing"):
        karpathy(**{**paths, "json_file": folder / "none.json"}, **arguments)
    with pytest.raises(GraceError, match="is not a file"):
        karpathy(**{**paths, "json_file": folder}, **arguments)
    with pytest.raises(GraceError, match="folder of images is missing"):
        karpathy(**{**paths, "images": folder / "none"}, **arguments)
    with pytest.raises(GraceError, match="is not a folder"):
        karpathy(**{**paths, "images": folder / "dataset.json"}, **arguments)
    with pytest.raises(GraceError, match="would overwrite it"):
        karpathy(**{**paths, "output": folder}, **arguments)
    assert (folder / "images/0.png").is_file()


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


def test_a_photo_that_was_cut_off_is_found(folder: Path):
    photo = folder / "images/3.png"
    Image.effect_noise((256, 256), 80).convert("RGB").save(photo, format="JPEG")
    photo.write_bytes(photo.read_bytes()[:-2000])
    with pytest.raises(GraceError, match=r"3\.png cannot be read.*get them again"):
        run(folder, document())
    assert not (folder / "output").exists()


def test_a_file_of_two_images_is_refused(folder: Path):
    content = document()
    content["images"][5]["filename"] = content["images"][1]["filename"]
    with pytest.raises(GraceError, match="is listed for two images"):
        run(folder, content)


@pytest.mark.parametrize(
    "names",
    [[("dogs", "0.png"), ("cats", "0.png")], [("", "0.png"), ("", "./0.png")], [("", "0.png"), ("below/..", "0.png")]],
)
def test_two_images_never_share_one_photo(tmp_path, names) -> None:
    (tmp_path / "photos/below").mkdir(parents=True)
    entries = []
    for number in range(2):
        Image.new("RGB", (8, 8), (number * 90, 0, 0)).save(tmp_path / f"photos/{number}.png")
    for number, (split, (filepath, filename)) in enumerate(zip(("train", "test"), names, strict=True)):
        sentence = {"sentid": number, "raw": "a photo"}
        entries.append({"imgid": number, "split": split, "filename": filename, "sentences": [sentence]})
        if filepath:
            entries[-1]["filepath"] = filepath
    (tmp_path / "d.json").write_text(json.dumps({"images": entries}))
    with pytest.raises(GraceError, match=r"0\.png is used by two images|inside the folder"):
        karpathy(
            json_file=tmp_path / "d.json", images=tmp_path / "photos", output=tmp_path / "out", settings=Karpathy(),
            name="x",
        )  # fmt: skip
    assert not (tmp_path / "out").exists()
