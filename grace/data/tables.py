"""The tables that every data set consists of, and their checks.

Reads and writes a folder `{output}/{name}/dataset/`:

- `images.parquet`: image_id, split ("train", "val", "test"), file (relative to images_dir), source_split
- `captions.parquet`: caption_id, image_id, split, text (as given by the source)
- `qrels.trec`: `caption_id 0 image_id 1` for the captions of the test split
- `dataset.json`: name, source, images_dir ("images" inside the folder, or an absolute path), license, counts, ...

Ids are strings without whitespace. Command: `python -m grace dataset SOURCE ... --output FOLDER`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from grace.system.errors import GraceError, did_you_mean
from grace.system.files import need, read_json, read_table, replacing, write_json, write_table

SPLITS: tuple[str, ...] = ("train", "val", "test")
IMAGE_COLUMNS = ["image_id", "split", "file", "source_split"]
CAPTION_COLUMNS = ["caption_id", "image_id", "split", "text"]
SUMMARY_KEYS = ["name", "source", "images_dir", "license"]


@dataclass(frozen=True)
class DatasetTables:
    """A data set that has been read and checked.

    `images` and `captions` are data frames with the columns above and the index 0..n-1; the row number of an image is also
    its row in every array of `embeddings/`. `summary` is the content of `dataset.json`.
    """

    folder: Path
    images: pd.DataFrame
    captions: pd.DataFrame
    summary: dict[str, Any]

    @property
    def images_dir(self) -> Path:
        """The folder that `file` is relative to."""
        return self.folder / self.summary["images_dir"]  # an absolute images_dir replaces the folder

    def image_path(self, file: str) -> Path:
        """The path of an image, from its `file`."""
        return self.images_dir / file

    def stamps(self) -> list[list]:
        """[file, bytes, mtime in ns] of every image: detects a photo replaced by another of the same name."""
        found = []
        for file in self.images["file"]:
            path = self.image_path(file)
            said = path.stat() if path.exists() else None  # a missing file is reported by its reader
            found.append([file, said.st_size, said.st_mtime_ns] if said else [file, 0, 0])
        return found

    def images_of(self, split: str) -> pd.DataFrame:
        """The images of one split; the index keeps the row numbers of `images`."""
        return self.images[self.images["split"] == _known_split(split)]

    def captions_of(self, split: str) -> pd.DataFrame:
        """The captions of one split; the index keeps the row numbers of `captions`."""
        return self.captions[self.captions["split"] == _known_split(split)]

    @property
    def gallery(self) -> pd.DataFrame:
        """The images of the test split: what is searched."""
        return self.images_of("test")


def load_dataset(folder: Path | str) -> DatasetTables:
    """Read the tables of a data set and check them; raises a `GraceError` if anything is wrong."""
    folder = need(folder, "data set folder")
    summary = read_json(folder / "dataset.json", "data set summary")
    where = f"data set {folder}"
    _check_summary(summary, where)
    images = read_table(folder / "images.parquet", "table of images", IMAGE_COLUMNS)
    captions = read_table(folder / "captions.parquet", "table of captions", CAPTION_COLUMNS)
    check_tables(images, captions, where)
    return DatasetTables(folder, images, captions, summary)


def write_dataset(
    folder: Path | str, images: pd.DataFrame, captions: pd.DataFrame, summary: dict[str, Any]
) -> DatasetTables:
    """Check the tables and write them into the existing `folder` (see `grace.system.files.replacing_folder`).

    `summary` has name, source, images_dir and license, and may have more keys; `counts` is added here. If images_dir is
    "images", the image files must already be in `folder/images`.
    """
    folder = Path(folder)
    where = f"data set '{summary.get('name', '')}'"
    _check_summary(summary, where)
    images = images[IMAGE_COLUMNS].reset_index(drop=True)
    captions = captions[CAPTION_COLUMNS].reset_index(drop=True)
    check_tables(images, captions, where)
    summary = {**summary, "counts": _counts(images, captions)}
    write_table(folder / "images.parquet", images)
    write_table(folder / "captions.parquet", captions)
    test = captions[captions["split"] == "test"]
    with replacing(folder / "qrels.trec") as temporary:
        lines = [
            f"{caption} 0 {image} 1\n" for caption, image in zip(test["caption_id"], test["image_id"], strict=True)
        ]
        temporary.write_text("".join(lines), encoding="utf-8")
    write_json(folder / "dataset.json", summary)
    return DatasetTables(folder, images, captions, summary)


def check_tables(images: pd.DataFrame, captions: pd.DataFrame, where: str) -> None:
    """Raise a `GraceError` that starts with `where` for the first problem in the two tables."""
    for table, columns, kind in ((images, IMAGE_COLUMNS, "image"), (captions, CAPTION_COLUMNS, "caption")):
        for column in columns:
            texts = table[column].map(lambda value: isinstance(value, str) and _is_unicode(value)).astype(bool)
            if not texts.all():
                row = int((~texts).to_numpy().argmax())
                raise GraceError(f"{where}: {column} of {kind} row {row} is not a string: {table[column].iloc[row]!r}")
        _check_ids(table[f"{kind}_id"], kind, where)
        for split in table["split"].unique():
            if split not in SPLITS:
                raise GraceError(
                    f"{where}: unknown split '{split}' in the table of {kind}s{did_you_mean(split, SPLITS)}"
                )
    for split in ("train", "test"):
        if not (images["split"] == split).any():
            raise GraceError(f"{where}: no image has the split '{split}'; GRACE needs train images and test images")
    for file in images["file"]:
        path = PurePosixPath(file)
        if not file or "\0" in file or path.is_absolute() or ".." in path.parts:
            raise GraceError(f"{where}: image file {file!r} must be a path inside the folder of images")
    split_of = pd.Series(images["split"].to_numpy(), index=images["image_id"].to_numpy(), dtype=object)
    expected = split_of.reindex(captions["image_id"].to_numpy()).to_numpy()
    orphans = pd.isna(expected)
    if orphans.any():
        row = captions.iloc[int(orphans.argmax())]
        raise GraceError(
            f"{where}: caption {row['caption_id']} has no image: image {row['image_id']} is not in the table of images"
            f"{_and_more(int(orphans.sum()))}"
        )
    wrong = expected != captions["split"].to_numpy(dtype=object)
    if wrong.any():
        row = captions.iloc[int(wrong.argmax())]
        raise GraceError(
            f"{where}: caption {row['caption_id']} has the split '{row['split']}' but its image {row['image_id']} has "
            f"a different one{_and_more(int(wrong.sum()))}"
        )
    silent = ~images["image_id"].isin(captions["image_id"]).to_numpy()
    if silent.any():
        image = images["image_id"].iloc[int(silent.argmax())]
        raise GraceError(f"{where}: image {image} has no caption{_and_more(int(silent.sum()))}")
    blank = (captions["text"].str.strip() == "").to_numpy(dtype=bool)
    if blank.any():
        caption = captions["caption_id"].iloc[int(blank.argmax())]
        raise GraceError(f"{where}: caption {caption} is empty{_and_more(int(blank.sum()))}")


def _check_ids(ids: pd.Series, kind: str, where: str) -> None:
    for value in ids:
        if not value or value.split() != [value]:
            raise GraceError(f"{where}: {kind} id {value!r} must be a string without whitespace")
    twice = ids.duplicated().to_numpy()
    if twice.any():
        first = ids.iloc[int(twice.argmax())]
        raise GraceError(f"{where}: {kind} id {first} appears twice{_and_more(int(twice.sum()))}; ids must be unique")


def _check_summary(summary: Any, where: str) -> None:
    if not isinstance(summary, dict):
        raise GraceError(f"{where}: dataset.json must be an object")
    for key in SUMMARY_KEYS:
        if not isinstance(summary.get(key), str):
            raise GraceError(f"{where}: dataset.json lacks the string '{key}'")
    if summary["images_dir"] != "images" and not Path(summary["images_dir"]).is_absolute():
        raise GraceError(f"{where}: images_dir must be 'images' or an absolute path, not {summary['images_dir']!r}")


def _counts(images: pd.DataFrame, captions: pd.DataFrame) -> dict[str, dict[str, int]]:
    return {
        split: {"images": int((images["split"] == split).sum()), "captions": int((captions["split"] == split).sum())}
        for split in SPLITS
    }


def _known_split(split: str) -> str:
    if split not in SPLITS:
        raise GraceError(f"unknown split '{split}'{did_you_mean(split, SPLITS)}")
    return split


def _is_unicode(text: str) -> bool:
    """False for lone surrogates, which JSON allows and UTF-8 cannot encode."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _and_more(count: int) -> str:
    return f" (and {count - 1} more like it)" if count > 1 else ""
