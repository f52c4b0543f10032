"""Karpathy's JSON format: files and images that are wrong end in one clear error, or within a bound are left out."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from grace.data.karpathy import karpathy
from grace.data.skipped import read_skipped
from grace.system.errors import GraceError
from grace.workflow.config import Karpathy
from tests.unit import karpathy_files
from tests.unit.karpathy_files import document, run

folder = karpathy_files.folder


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
