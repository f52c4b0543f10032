"""The data set `folder`: thirty photos in ten formats and faults, by the tutorial's words, and captions of every form."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pandas as pd
import pytest
import yaml
from PIL import Image

from grace.captions import writers
from grace.data.folder import folder
from grace.data.listing import image_files, listing_digest
from grace.data.skipped import read_skipped
from grace.data.tables import load_dataset
from grace.system.errors import GraceError
from grace.workflow.config import Config, Folder, parse
from tests.unit.photos import make_photos, picture

ROOT = Path(__file__).resolve().parents[2]


def tutorial(language: str) -> list[str]:
    """The blocks of one language in the tutorial on one's own photos."""
    section = (ROOT / "docs/tutorials/own-photos.md").read_text()
    return re.findall(rf"```{language}\n(.*?)```", section, re.DOTALL)


def write_captions(photos: Path, but_not: tuple[str, ...] = ("speechless.png",)) -> dict[str, list[str]]:
    """captions.csv with the tutorial's columns, two captions a photo."""
    header = tutorial("csv")[0].splitlines()[0].split(",")
    said = {
        file: [f'A "photo", number {number} # id', f"Ünïcode — {file}, seen"]
        for number, file in enumerate(image_files(photos))
        if file not in but_not
    }
    with open(photos / "captions.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(header)
        table.writerows((name, caption) for name, captions in said.items() for caption in captions)
    return said


def make(root: Path, **settings):
    given = Folder(images=str(root / "photos"), **settings)
    folder(output=root / "out", settings=given, name="mine", write_captions=writers.write_captions)
    return load_dataset(root / "out")


@pytest.fixture
def few(tmp_path):
    """Ten small photos without captions."""
    (tmp_path / "photos").mkdir()
    for number in range(10):
        picture(number).save(tmp_path / f"photos/{number}.png")
    return tmp_path


def test_thirty_photos_by_the_words_of_the_tutorial(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    faults = make_photos(tmp_path / "photos")
    assert len(image_files(tmp_path / "photos")) == 30
    said = write_captions(tmp_path / "photos")
    config = parse(Config, yaml.safe_load(tutorial("yaml")[0]), "tutorial")
    assert config.dataset.source == "folder"
    output = Path(config.output) / config.dataset.name / "dataset"
    with pytest.raises(GraceError, match=r"fix them, or .*dataset\.folder\.max_skipped") as caught:
        folder(output=output, settings=config.dataset.folder, name=config.dataset.name)
    lost = [file for file, reason in faults.items() if reason != "duplicate"]
    assert str(caught.value).startswith(f"{len(lost)} of 30 images cannot be used (")
    assert all(file in str(caught.value) for file in lost)
    assert not output.exists()
    folder(output=output, settings=config.dataset.folder.model_copy(update={"max_skipped": 0.2}), name="photos")
    data, skipped = load_dataset(output), read_skipped(output)
    assert dict(zip(skipped["file"], skipped["reason"], strict=True)) == faults
    assert (output / "skipped.parquet").is_file() and "skipped.parquet" in (
        ROOT / "docs/tutorials/own-photos.md"
    ).read_text()
    assert {split: count["images"] for split, count in data.summary["counts"].items()} == {
        "train": 20,
        "val": 2,
        "test": 2,
    }
    for file in data.images["file"]:
        with Image.open(data.image_path(file)) as image:
            assert image.format in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
    texts = data.captions.groupby("image_id")["text"].agg(list)
    assert texts["plain%202.jpg"] == said["plain 2.jpg"] + said["zz copy.jpg"]
    assert texts["ångström%2050%25.png"] == said["ångström 50%.png"]
    assert texts["trip/turned8.jpeg"] == said["trip/turned8.jpeg"]


def test_the_same_seed_gives_the_same_split(few):
    captions = pd.DataFrame({"file": [f"{number}.png" for number in range(10)], "caption": "a photo"})
    captions.to_csv(few / "c.csv", index=False)
    one, same, other = (
        make(few, captions=str(few / "c.csv"), seed=seed, test_share=0.4, val_share=0.2).images for seed in (0, 0, 1)
    )
    assert one.equals(same) and not one.equals(other)
    assert one["split"].value_counts().to_dict() == {"train": 4, "test": 4, "val": 2}
    assert make(few, captions=str(few / "c.csv"), test_share=0.01, val_share=0).summary["counts"]["test"]["images"] == 1


ROWS = [("0.png", 'say "cheese", id # 5'), ("0.png", "Ünïcode — dash"), ("./1.png", "  two\twords  \n"), ("2.png", "c")]


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "list.jsonl"])
def test_tables_of_captions(few, kind):
    path = few / f"c.{kind}"
    rest = [(f"{number}.png", f"photo {number}") for number in range(3, 10)]
    if kind == "csv":
        with open(path, "w", newline="", encoding="utf-8-sig") as file:
            csv.writer(file).writerows([("file", "caption"), *ROWS, *rest])
    elif kind == "tsv":
        lines = [f"{name}\t{' '.join(caption.split())}" for name, caption in ROWS + rest]
        path.write_text("\n".join(["file\tcaption", *lines]), encoding="utf-8")
    elif kind == "jsonl":
        records = [json.dumps({"file": name, "caption": caption, "extra": 1}) for name, caption in ROWS + rest]
        path.write_text("\n\n".join(records), encoding="utf-8")
    else:
        several: dict[str, list[str]] = {}
        for name, caption in ROWS + rest:
            several.setdefault(name, []).append(caption)
        path.write_text("\n".join(json.dumps({"file": k, "caption": v}) for k, v in several.items()), encoding="utf-8")
    texts = make(few, captions=str(path)).captions.groupby("image_id")["text"].agg(list)
    assert texts["0.png"] == [ROWS[0][1], ROWS[1][1]]
    assert texts["1.png"] == ["two words"] and texts["2.png"] == ["c"] and len(texts) == 10


def test_other_columns_and_base_names(few):
    (few / "photos/below").mkdir()
    picture(20).save(few / "photos/below/x.png")
    rows = [{"image": f"{number}.png", "text": "a"} for number in range(10)] + [{"image": "x.png", "text": "b"}]
    pd.DataFrame(rows).to_csv(few / "c.csv", index=False)
    data = make(few, captions=str(few / "c.csv"), file_column="image", caption_column="text")
    assert "below/x.png" in data.images["file"].tolist()
    with pytest.raises(GraceError, match=r"line 1: no column 'file'.*with dataset\.folder\.file_column"):
        make(few, captions=str(few / "c.csv"))
    picture(21).save(few / "photos/x.png")
    (few / "photos/more").mkdir()
    (few / "photos/x.png").rename(few / "photos/more/x.png")
    with pytest.raises(GraceError, match=r"'x\.png' could be below/x\.png or more/x\.png"):
        make(few, captions=str(few / "c.csv"), file_column="image", caption_column="text")


def test_sidecars(few):
    for number in range(10):
        name = f"{number}.txt" if number % 2 else f"{number}.png.txt"
        (few / "photos" / name).write_bytes(f"\ufefffirst {number}\r\n\r\n  second\u2028# id \n".encode())
    texts = make(few, captions="sidecar").captions.groupby("image_id")["text"].agg(list)
    assert all(texts[f"{number}.png"] == [f"first {number}", "second # id"] for number in range(10))
    (few / "photos/3.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(GraceError, match=r"3\.txt is not UTF-8"):
        make(few, captions="sidecar")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("c.csv", "", "is empty; its first line"),
        ("c.csv", "file,caption\n0.png,a,b\n", "line 2: expected 2 fields; quote"),
        ("c.csv", "file,caption\n0.png\n", "line 2: expected 2 fields"),
        ("c.csv", 'file,caption\n0.png,"a', "line 2 cannot be read"),
        ("c.csv", "file,capton\n0.png,a\n", "no column 'caption'; did you mean 'capton'"),
        ("c.csv", b"file,caption\n0.png,\xff\n", "is not UTF-8 text"),
        ("c.csv", "file,caption\n ,a\n", "must be the path of an image"),
        ("c.jsonl", '{"file": "0.png", "caption": 3}', "line 1: 'caption' must be a string, not 3"),
        ("c.jsonl", '{"file": ["0.png"], "caption": "a"}', "must be the path of an image"),
        ("c.jsonl", '{"file": "0.png"', "line 1 is not valid JSON"),
        ("c.jsonl", "[" * 100_000, "nested too deeply"),
        ("c.jsonl", "[1]", "line 1 must be an object"),
        ("c.txt", "", "must end in .csv, .tsv or .jsonl"),
    ],
)
def test_a_wrong_table_is_one_clear_line(few, name, content, said):
    (few / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(GraceError, match=said) as caught:
        make(few, captions=str(few / name))
    assert "\n" not in str(caught.value) and not (few / "out").exists()


def test_captions_of_images_that_are_not_there_are_counted(few):
    rows = [f"{number}.png,a photo" for number in range(10)]
    (few / "c.csv").write_text("\n".join(["file,caption", *rows, "gone.png,b", "gone.png,c"]))
    with pytest.raises(GraceError, match=r"gone\.png has captions, but is not in the folder"):
        make(few, captions=str(few / "c.csv"))
    make(few, captions=str(few / "c.csv"), max_skipped=0.1)
    assert read_skipped(few / "out")[["file", "reason"]].to_numpy().tolist() == [["gone.png", "missing"]]


def test_no_captions_and_nobody_to_write_them(few):
    for captions in ("", "sidecar"):
        with pytest.raises(GraceError, match=r"set dataset\.folder\.captioner") as caught:
            make(few, captions=captions, max_skipped=0.9)
        assert "\n" not in str(caught.value)
    assert not (few / "out").exists()


def test_a_table_that_cannot_be_read_is_told_with_its_line(few):
    table = few / "c.csv"
    for text, said in (
        ("file,text\n0.png,a\n", r"line 1: no column 'caption'"),
        ('file,caption\n0.png,a\n1.png,"a dog\n2.png,b\n', r"line 3 cannot be read .* unclosed"),
    ):
        table.write_text(text)
        with pytest.raises(GraceError, match=said) as caught:
            make(few, captions=str(table))
        assert "\n" not in str(caught.value)


def test_no_text_file_beside_any_photo(few):
    with pytest.raises(GraceError, match=r"no photo in .* has a text file beside it \(cat\.txt"):
        make(few, captions="sidecar", max_skipped=0.9)


def test_a_photo_of_a_phone_is_told_what_to_do_with(few):
    (few / "photos/phone.jpg").write_bytes(b"\0\0\0\x1cftypheic\0\0\0\0mif1heic" + bytes(200))
    for number in range(10):
        (few / f"photos/{number}.txt").write_text("a photo")
    with pytest.raises(GraceError, match=r"phone\.jpg is HEIC or AVIF: convert it"):
        make(few, captions="sidecar", max_skipped=0.0)


def test_settings_that_cannot_be_meant(few):
    with pytest.raises(
        GraceError, match=r"dataset\.folder is set to 'photos', but dataset\.source is scenes; set source: folder"
    ):
        parse(Config, {"dataset": {"folder": {"images": "photos"}}}, "given")
    with pytest.raises(GraceError, match=r"leave no images to train on"):
        parse(Config, {"dataset": {"folder": {"test_share": 0.6, "val_share": 0.6}}}, "given")


def test_a_changed_folder_has_another_listing(few):
    photos, results = few / "photos", few / "photos/results"

    def digest(with_texts: bool = False) -> str:
        return listing_digest(photos, results, with_texts)

    seen = [digest()]
    assert digest() == seen[0] and listing_digest(few / "none", results, False) == ""
    results.mkdir()
    picture(50).save(results / "example.png")  # of an earlier run
    (photos / "0.txt").write_text("a photo")
    assert digest() == seen[0] != digest(with_texts=True)
    picture(99).save(photos / "new.png")
    seen.append(digest())
    (photos / "1.png").write_bytes((photos / "2.png").read_bytes())
    seen.append(digest())
    (photos / "3.png").unlink()
    seen.append(digest())
    assert len(set(seen)) == 4


def test_a_captioner_writes_what_is_missing(few, monkeypatch):
    (few / "photos/0.txt").write_text("by a person")
    monkeypatch.setattr(
        writers, "_hub_captioner", lambda settings: lambda images: [["x ", "x", "", "y", "z", "w"]] * len(images)
    )
    data = make(few, captions="sidecar", captioner="some/model")
    texts = data.captions.groupby("image_id")["text"].agg(list)
    assert texts["0.png"] == ["by a person"] and texts["1.png"] == ["x", "y", "z"]
    assert data.summary["captioner"] == "some/model" and data.summary["captioned_images"] == 9


def test_wrong_folders(few):
    with pytest.raises(GraceError, match="contains no images"):
        (few / "none").mkdir()
        folder(output=few / "out", settings=Folder(images=str(few / "none")), name="x")
    with pytest.raises(GraceError, match="folder of images is missing"):
        folder(output=few / "out", settings=Folder(images=str(few / "nowhere")), name="x")
    with pytest.raises(GraceError, match="is not a folder"):
        folder(output=few / "out", settings=Folder(images=str(few / "photos/1.png")), name="x")
    with pytest.raises(GraceError, match="contains files not written by this command"):
        folder(output=few, settings=Folder(images=str(few / "photos")), name="x")
    assert len(list((few / "photos").iterdir())) == 10


def test_names_that_are_no_unicode(few):
    with open(bytes(few / "photos") + b"/\xff.png", "wb") as file:
        file.write((few / "photos/1.png").read_bytes())
    for number in range(10):
        (few / f"photos/{number}.txt").write_text("a photo")
    make(few, captions="sidecar", max_skipped=0.5)
    assert read_skipped(few / "out")["reason"].tolist() == ["bad name"]


def test_a_folder_that_cannot_be_reached_is_left_to_the_stage_to_tell(monkeypatch):
    """os.path.isdir says no where pathlib raises: below a folder that may not be searched. Root may search any."""
    refused = PermissionError(13, "Permission denied")
    monkeypatch.setattr(Path, "stat", lambda *_, **__: (_ for _ in ()).throw(refused))
    monkeypatch.setattr("os.stat", lambda *_, **__: (_ for _ in ()).throw(refused))
    assert listing_digest(Path("/locked/photos"), Path("results"), False) == ""
