"""Data set `folder`: any folder of images, with captions from a table, from text files, or written by a model.

Reads the images (in folders below too) and captions (`grace.data.folder_captions`, `grace.captions.writers`); writes the
tables of `grace.data.tables`, which point to the images where they are, and `skipped.parquet`. Command:

    python -m grace dataset folder --images photos --captions captions.csv --output DIR

Rules: an image is a file whose name ends as one (`ENDINGS`) and does not start with a dot; image id = its path in the
folder, white space and `%` written as in an address. What cannot be decoded (`grace.data.images`) or has no caption is left
out, up to `max_skipped` of all, and so is a caption's image that is not there. Of files with the same bytes the first by name
stays, with the captions of all. The split is drawn by the seed from the sorted names.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd

from grace.data.duplicates import first_of
from grace.data.folder_captions import SIDECAR, read_captions
from grace.data.images import Verdict, check_images
from grace.data.listing import ENDINGS, image_files
from grace.data.skipped import check_bound, skipped_table, write_skipped
from grace.data.tables import write_dataset
from grace.records.sidecars.recording import also_read
from grace.records.stage import stage
from grace.system.errors import GraceError
from grace.system.files import check_output_folder, need, replacing_folder
from grace.workflow.config import Folder

LICENSE = "yours, or that of whoever took the photographs"
WriteCaptions = Callable[[Path, list[str], Folder], dict[str, list[str]]]
SPLIT_NAMES = ("test", "val", "train")


def _table_of_captions(given: dict[str, Any]) -> dict[str, Path]:
    captions = given["settings"].captions
    return {"captions": Path(captions)} if captions not in ("", SIDECAR) else {}


@stage("dataset", reads=_table_of_captions)
def folder(*, output: Path, settings: Folder, name: str, write_captions: WriteCaptions | None = None) -> None:
    """Write the data set `name` from the folder of images that the settings name.

    `write_captions` is asked for captions of images without any, if the settings name a captioner: given the folder, names of
    files and the settings, it returns {file: captions} (`grace.captions.writers.write_captions`).

    Raises a `GraceError` for a folder without images, for captions that cannot be read, where captions are missing and
    nobody is named to write them, and where more than `max_skipped` of the images cannot be used; `output` then stays as
    it was.
    """
    if not settings.images:
        raise GraceError("dataset.folder.images is empty; name the folder of images")
    place = need(settings.images, "folder of images").resolve()
    if not place.is_dir():
        raise GraceError(f"folder of images {place} is not a folder")
    if place.is_relative_to(check_output_folder(output, "dataset")):
        raise GraceError(f"output {output} holds the images {place} and would replace them; give another output")
    files = image_files(place, Path(output).resolve())
    if not files:
        raise GraceError(f"folder of images {place} holds no image; their names end in {', '.join(ENDINGS[:12])}")
    captions, strange = read_captions(settings, place, files)
    verdicts = check_images(place, files)
    rows = [
        (_id(file), _unicode(file), v.reason, v.detail) for file, v in zip(files, verdicts, strict=True) if v.reason
    ]
    read = {PurePosixPath(v.file).with_suffix("") for v in verdicts if not v.reason}
    rows = [
        (image, file, "another copy", f"{detail}; a readable photo of the same name is there")
        if reason == "not supported" and PurePosixPath(file).with_suffix("") in read and file not in captions
        else (image, file, reason, detail)
        for image, file, reason, detail in rows
    ]
    rows += [("", file, "missing", "has captions, but is not in the folder") for file in strange]
    usable, merged, repeated = _merged(verdicts, captions)
    rows += repeated
    silent = [file for file in usable if file not in merged]
    model = ""
    if silent and settings.captioner:
        if write_captions is None:
            raise GraceError(
                f"dataset.folder.captioner is {settings.captioner!r}, but no function that writes captions is given"
            )
        merged.update(write_captions(place, silent, settings))
        model = settings.captioner
    elif silent and not merged:
        raise GraceError(_no_captions(settings, place))
    rows += [(_id(file), file, "no caption", "has no caption") for file in usable if file not in merged]
    skipped = skipped_table(rows)
    hint = "mend them, or take them and their captions out" if merged else _no_captions(settings, place)
    check_bound(
        skipped, len(files) + len(strange), settings.max_skipped, "dataset.folder.max_skipped", str(place), hint
    )
    images, table = _tables([file for file in usable if file in merged], merged, settings, place)
    summary = {
        "name": name,
        "source": "folder",
        "images_dir": str(place),
        "license": LICENSE,
        "captions": settings.captions or "none",
        "captioner": model,
        "captioned_images": len(silent) if model else 0,
        "skipped": len(skipped),
    }
    with replacing_folder(output, "dataset") as made:
        write_dataset(made, images, table, summary)
        write_skipped(made, skipped)
    also_read("images", place, files=images["file"].tolist())


def _merged(
    verdicts: list[Verdict], captions: dict[str, list[str]]
) -> tuple[list[str], dict[str, list[str]], list[tuple[str, str, str, str]]]:
    """Usable files, the first of each content; their captions with those of the others; rows on the others."""
    good = [verdict for verdict in verdicts if not verdict.reason]
    first = first_of(pd.Series([verdict.digest for verdict in good], dtype=object)).tolist() if good else []
    usable, merged, repeated = [], {}, []
    for number, (verdict, place) in enumerate(zip(good, first, strict=True)):
        kept = good[place].file
        if place == number:
            usable.append(verdict.file)
        else:
            detail = f"has the bytes of {kept}, which stays with the captions of both"
            repeated.append((_id(verdict.file), verdict.file, "duplicate", detail))
        if verdict.file in captions:
            merged[kept] = list(dict.fromkeys([*merged.get(kept, []), *captions[verdict.file]]))
    return usable, merged, repeated


def _tables(
    files: list[str], captions: dict[str, list[str]], settings: Folder, place: Path
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tables of images and captions, split by the seed: at least one image each to train on and to search."""
    shares = {"test": settings.test_share, "val": settings.val_share}
    counts = {split: round(share * len(files)) for split, share in shares.items()}
    counts["test"] = max(1, counts["test"])
    train = len(files) - sum(counts.values())
    if train < 1:
        raise GraceError(f"folder of images {place}: {len(files)} images can be used, too few to train and to search")
    splits = np.repeat(np.array(SPLIT_NAMES, dtype=object), [counts["test"], counts["val"], train])
    splits = splits[np.random.default_rng(settings.seed).permutation(len(files))]
    images = pd.DataFrame(
        {"image_id": [_id(file) for file in files], "split": splits, "file": files, "source_split": splits},
        dtype=object,
    )
    rows = [
        (f"{image}:{number}", image, split, text)
        for image, split, file in zip(images["image_id"], splits, files, strict=True)
        for number, text in enumerate(captions[file])
    ]
    return images, pd.DataFrame(rows, columns=["caption_id", "image_id", "split", "text"], dtype=object)


def _id(file: str) -> str:
    """The path without white space, which runs and qrels cannot hold; still one to one."""
    return re.sub(r"[\s%\x1c-\x1f\x85]", lambda found: quote(found[0]), _unicode(file))


def _unicode(file: str) -> str:
    """A file name that is no UTF-8, with its strange bytes shown."""
    return file.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _no_captions(settings: Folder, place: Path) -> str:
    if settings.captions == SIDECAR:
        return (
            f"no photo in {place} has a text file beside it (cat.txt or cat.jpg.txt beside cat.jpg, a line a caption); write "
            "them, or name a captioner in dataset.folder.captioner"
        )
    if settings.captions:
        return f"give captions in {settings.captions}, or name a captioner in dataset.folder.captioner"
    return (
        f"the images of {place} have no captions, and a model cannot learn to find them without: give a CSV, TSV or JSONL "
        "file in dataset.folder.captions (columns file and caption), or text files beside the images (captions: sidecar), or "
        "name a captioner in dataset.folder.captioner"
    )
