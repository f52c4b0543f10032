"""Data sets in Karpathy's JSON format (Flickr8k, Flickr30k, COCO) with a folder of images.

Reads the JSON file and every image that is kept; writes the tables of `grace.data.tables`, which point to the images where
they are, and `skipped.parquet` (`grace.data.skipped`). Command:

    python -m grace dataset karpathy --json dataset_flickr30k.json --images flickr30k-images --output DIR

Rules: image id = `cocoid` where the image has one, else `imgid`; caption id = `sentid`. An image with a `filepath`
(COCO) is looked for at images/filepath/filename, then at images/filename. Text is the caption's `raw` with the white
space at both ends removed, and every stretch of white space that holds a line break, tab or other control character
made one blank; nothing else is altered. A missing image is an error; one that cannot be decoded (`grace.data.images`) is
left out with its captions, up to `max_skipped` of all. Images of one content stay: the split is a published one.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from grace.data.download.sources import sources_of
from grace.data.duplicates import duplicate_summary
from grace.data.images import check_images
from grace.data.skipped import check_bound, skipped_table, write_skipped
from grace.data.tables import SPLITS, write_dataset
from grace.data.texts import check_whole, harmless
from grace.records.sidecars.recording import also_read
from grace.records.stage import stage
from grace.system.errors import GraceError, did_you_mean
from grace.system.files import need, read_json, replacing_folder
from grace.workflow.config import Karpathy

LICENSE = "that of the source's images and captions; see where you got them"
FOLD = 1000
"""Test images of one fold of COCO 1K."""
LONGEST_ID = 200
"""Characters of an id: it stands in every line of a run."""


@stage(
    "dataset",
    reads=lambda given: {"json_file": given["json_file"]},
    settings=lambda given: given.model_dump(mode="json", exclude={"json_file", "images"}),
)
def karpathy(*, json_file: Path, images: Path, output: Path, settings: Karpathy, name: str) -> None:
    """Write the data set `name` from a Karpathy JSON file and a folder of images.

    `settings` say what becomes of `restval` and how many images of every split are kept (seeded). Raises a `GraceError`
    for anything in the file or the folder that is not as it should be; `output` then stays as it was.
    """
    json_file, images, output = Path(json_file), Path(images).resolve(), Path(output)
    if not need(json_file, "Karpathy JSON file").is_file():
        raise GraceError(f"Karpathy JSON file {json_file} is not a file; give the path of dataset_....json itself")
    if not need(images, "folder of images").is_dir():
        raise GraceError(f"folder of images {images} is not a folder")
    for source in (images, json_file.resolve()):
        if source.is_relative_to(output.resolve()):
            raise GraceError(f"output {output} holds the input {source} and would replace it; give another output")
    where = f"Karpathy JSON file {json_file}"
    document = read_json(json_file, "Karpathy JSON file")
    image_table, caption_table = parse_karpathy(document, where, settings.restval)
    del document  # COCO's is a gigabyte of objects
    image_table = _keep(_fold(image_table, settings.fold, where), settings)
    image_table = image_table.assign(file=_find(images, image_table))
    image_table, skipped = _readable(images, image_table, settings.max_skipped)
    caption_table = caption_table[caption_table["image_id"].isin(image_table["image_id"])]
    summary = {
        "name": name,
        "source": "karpathy",
        "images_dir": str(images),
        **_rights(settings),
        "restval": settings.restval,
        "json_file": json_file.name,
        "fold": settings.fold,
        "skipped": len(skipped),
        "duplicates": duplicate_summary(image_table["image_id"], image_table["split"], image_table["digest"]),
    }
    with replacing_folder(output, "dataset") as folder:
        write_dataset(folder, image_table, caption_table, summary)
        write_skipped(folder, skipped)
    also_read("images", images, files=image_table["file"].tolist())


def parse_karpathy(document: Any, where: str, restval: str = "train") -> tuple[pd.DataFrame, pd.DataFrame]:
    """Turn a parsed Karpathy JSON into two tables, in the file's order.

    Returns images (image_id, split, source_split, filename, filepath or "") and captions (caption_id, image_id, split,
    text). Images of `restval` become train or are dropped. Errors start with `where`.
    """
    entries = _get(document, "images", list, where)
    image_rows: list[tuple[str, str, str, str, str]] = []
    caption_rows: list[tuple[str, str, str, str]] = []
    for number, entry in enumerate(entries):
        place = f"{where}: images[{number}]"
        image_id = _id(entry, "cocoid" if isinstance(entry, dict) and "cocoid" in entry else "imgid", place)
        source_split = _get(entry, "split", str, place)
        if source_split not in (*SPLITS, "restval"):
            raise GraceError(
                f"{place}: unknown split '{_cut(source_split)}'{did_you_mean(source_split, (*SPLITS, 'restval'))}"
            )
        split = "train" if source_split == "restval" else source_split
        filename = _get(entry, "filename", str, place)
        filepath = _get(entry, "filepath", str, place) if "filepath" in entry else ""
        if not filename.strip():
            raise GraceError(f"{place}: 'filename' is empty: its captions have no image")
        sentences = _get(entry, "sentences", list, place)
        if not sentences:
            raise GraceError(f"{place} ({_cut(filename)}): image {image_id} has no caption")
        for position, sentence in enumerate(sentences):
            spot = f"{place}.sentences[{position}]"
            caption_id = _id(sentence, "sentid", spot)
            text = harmless(_get(sentence, "raw", str, spot))
            check_whole(text, spot)
            if not text:
                raise GraceError(f"{spot}: caption {caption_id} is empty")
            if "imgid" in sentence and sentence["imgid"] != entry.get("imgid", sentence["imgid"]):
                raise GraceError(
                    f"{spot}: caption {caption_id} belongs to image {_short(sentence['imgid'])} but stands with image "
                    f"{_short(entry['imgid'])}: it has no image of its own"
                )
            if source_split != "restval" or restval == "train":
                caption_rows.append((caption_id, image_id, split, text))
        image_rows.append((image_id, split, source_split, filename, filepath))
    images = pd.DataFrame(
        image_rows, columns=["image_id", "split", "source_split", "filename", "filepath"], dtype=object
    )
    captions = pd.DataFrame(caption_rows, columns=["caption_id", "image_id", "split", "text"], dtype=object)
    twice = images["image_id"].duplicated()
    if twice.any():
        raise GraceError(f"{where}: image id {images['image_id'][twice].iloc[0]} stands twice; ids must be unique")
    files = images["filepath"].str.cat(images["filename"], sep="/")
    if files.duplicated().any():
        raise GraceError(
            f"{where}: the file {_cut(files[files.duplicated()].iloc[0].lstrip('/'))} stands with two images; each needs its "
            "own"
        )
    if restval == "drop":
        images = images[images["source_split"] != "restval"].reset_index(drop=True)
    for split in ("test", "train"):
        if not (images["split"] == split).any():
            raise GraceError(f"{where}: no image has the split '{split}'; GRACE needs train images and test images")
    return images, captions


def _keep(images: pd.DataFrame, settings: Karpathy) -> pd.DataFrame:
    """Keep the first max_{split} images of every split after a seeded shuffle, in the file's order."""
    kept = []
    for number, split in enumerate(SPLITS):
        rows = np.flatnonzero((images["split"] == split).to_numpy())
        limit = getattr(settings, f"max_{split}")
        if limit and limit < len(rows):
            rows = np.random.default_rng([settings.seed, number]).permutation(rows)[:limit]
        kept.append(rows)
    return images.iloc[np.sort(np.concatenate(kept))].reset_index(drop=True)


def _fold(images: pd.DataFrame, fold: int, where: str) -> pd.DataFrame:
    """All images, or of the test images only the `fold`-th thousand in the file's order (COCO 1K)."""
    if not fold:
        return images
    test = np.flatnonzero((images["split"] == "test").to_numpy())
    if len(test) < fold * FOLD:
        raise GraceError(
            f"{where}: fold {fold} needs {fold * FOLD:,} test images, there are {len(test):,}; set fold to 0"
        )
    others = np.flatnonzero((images["split"] != "test").to_numpy())
    kept = np.sort(np.concatenate([others, test[(fold - 1) * FOLD : fold * FOLD]]))
    return images.iloc[kept].reset_index(drop=True)


def _find(folder: Path, images: pd.DataFrame) -> list[str]:
    """The paths of the images inside `folder`; a `GraceError` names the first that is missing or leads out of it.

    Where a photo is not in its `filepath` it may lie in the folder itself, so two entries of different paths can come to the
    same photo: that is an error too.
    """
    found, missing = [], []
    for filepath, filename in zip(images["filepath"], images["filename"], strict=True):
        candidates = [os.path.join(filepath, filename), filename] if filepath else [filename]
        for file in candidates:
            if "\0" in file or ".." in Path(file).parts or Path(file).is_absolute():
                raise GraceError(f"image file {_cut(file)!r} must be a path inside the folder of images")
        file = next((file for file in candidates if _is_file(folder, file)), None)
        (missing if file is None else found).append(candidates[0] if file is None else os.path.normpath(file))
    if missing:
        more = f" (and {len(missing) - 1} more such images)" if len(missing) > 1 else ""
        raise GraceError(
            f"image {_cut(missing[0])} is missing in {folder}; fetch it or remove it from the JSON file{more}"
        )
    named: dict[str, str] = {}
    for file, asked in zip(found, images["filepath"].str.cat(images["filename"], sep="/"), strict=True):
        if file in named:
            raise GraceError(
                f"the file {_cut(file)} stands with two images, {_cut(named[file])} and {_cut(asked.lstrip('/'))}; each needs "
                f"its own: put the photos of {folder} into the folders that 'filepath' names"
            )
        named[file] = asked.lstrip("/")
    return found


def _is_file(folder: Path, file: str) -> bool:
    try:
        return (folder / file).is_file()
    except (OSError, UnicodeEncodeError):  # a name that no file system holds: too long, or a lone surrogate
        return False


def _readable(folder: Path, images: pd.DataFrame, largest_share: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The images that can be decoded, with the column digest, and the table of those that cannot."""
    verdicts = check_images(folder, images["file"])
    rows = [
        (image, verdict.file, verdict.reason, verdict.detail)
        for image, verdict in zip(images["image_id"], verdicts, strict=True)
        if verdict.reason
    ]
    skipped = skipped_table(rows)
    check_bound(skipped, len(images), largest_share, "dataset.karpathy.max_skipped", str(folder), "fetch it again")
    images = images.assign(digest=[verdict.digest for verdict in verdicts])
    return images[~images["image_id"].isin(skipped["image_id"])].reset_index(drop=True), skipped


def _rights(settings: Karpathy) -> dict[str, str]:
    """Licence and terms: of the table of sources for what `download` fetches, else unknown to us."""
    if not settings.download:
        return {"license": LICENSE}
    rows = sources_of(settings.download)
    return {
        "license": "; ".join(dict.fromkeys(row.licence for row in rows)),
        "terms": " ".join(dict.fromkeys(row.terms for row in rows)),
        "address": " ".join(dict.fromkeys(row.urls[0] if row.urls else row.form for row in rows)),
    }


def _get(mapping: Any, key: str, kind: type, where: str) -> Any:
    """`mapping[key]` if it is of type `kind`, else an error in words."""
    names: dict[type, str] = {str: "a text", list: "a list"}
    if not isinstance(mapping, dict):
        raise GraceError(f"{where} must be an object with '{key}', not {_short(mapping)}")
    if key not in mapping:
        raise GraceError(f"{where} lacks '{key}'")
    if not isinstance(mapping[key], kind):
        raise GraceError(f"{where}: '{key}' must be {names[kind]}, not {_short(mapping[key])}")
    return mapping[key]


def _id(mapping: Any, key: str, where: str) -> str:
    """An id, a whole number or a text without white space, as a string."""
    if not isinstance(mapping, dict):
        raise GraceError(f"{where} must be an object with '{key}', not {_short(mapping)}")
    if key not in mapping:
        raise GraceError(f"{where} lacks '{key}'")
    value = mapping[key]
    if type(value) is not int and not (isinstance(value, str) and value.split() == [value]):
        raise GraceError(f"{where}: '{key}' must be a whole number or a text without white space, not {_short(value)}")
    text = str(value)
    if len(text) > LONGEST_ID:
        raise GraceError(f"{where}: '{key}' has {len(text):,} characters, {LONGEST_ID} are allowed: {_cut(text)}")
    return text


def _short(value: Any) -> str:
    return _cut(repr(value), 40)


def _cut(text: str, most: int = 120) -> str:
    return text if len(text) <= most else text[: most - 3] + "..."
