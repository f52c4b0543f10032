"""Data set `folder`: any folder of images, with captions from a table, from text files, or written by a model.

Reads the images (subfolders included) and captions (`grace.data.folder_captions`, `grace.captions.writers`). Writes the
tables of `grace.data.tables`, which refer to the images in place, and `skipped.parquet`. Command:

    python -m grace dataset folder --images photos --captions captions.csv --output DIR

Rules: an image is a file with a known extension (`ENDINGS`) whose name does not start with a dot; its id is its path in
the folder, with whitespace and `%` percent-encoded. Images that cannot be decoded (`grace.data.images`) or have no caption
are skipped, up to a share of `max_skipped`, as are captions whose image is missing. Of identical files the first by name is
kept, with the captions of all copies. The split is a seeded shuffle of the sorted names.
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
from grace.system.progress import busy, say
from grace.workflow.config import Folder

LICENSE = "held by you, or by the photographers"
WriteCaptions = Callable[[Path, list[str], Folder], dict[str, list[str]]]
SPLIT_NAMES = ("test", "val", "train")


def _table_of_captions(given: dict[str, Any]) -> dict[str, Path]:
    captions = given["settings"].captions
    return {"captions": Path(captions)} if captions not in ("", SIDECAR) else {}


@stage("dataset", reads=_table_of_captions)
def folder(*, output: Path, settings: Folder, name: str, write_captions: WriteCaptions | None = None) -> None:
    """Write the data set `name` from the folder of images given in the settings.

    If the settings name a captioner, `write_captions` captions the images that have none: given the folder, the file names
    and the settings, it returns {file: captions} (`grace.captions.writers.write_captions`).

    Raises a `GraceError` if the folder has no images, if captions cannot be read, if captions are missing and no captioner
    is set, or if more than `max_skipped` of the images are unusable; `output` is then left untouched.
    """
    if not settings.images:
        raise GraceError("dataset.folder.images is empty; set it to your folder of images")
    place = need(settings.images, "folder of images").resolve()
    if not place.is_dir():
        raise GraceError(f"folder of images {place} is not a folder")
    if place.is_relative_to(check_output_folder(output, "dataset")):
        raise GraceError(f"output {output} contains the images {place} and would overwrite them; choose another output")
    with busy(f"listing {place}"):
        files = image_files(place, Path(output).resolve())
    if not files:
        raise GraceError(
            f"folder of images {place} contains no images; file names must end in {', '.join(ENDINGS[:12])}"
        )
    captions, strange = read_captions(settings, place, files)
    say(f"{len(files):,} images, captions of {len(captions):,} of them")
    verdicts = check_images(place, files)
    rows = [
        (_id(file), _unicode(file), v.reason, v.detail) for file, v in zip(files, verdicts, strict=True) if v.reason
    ]
    read = {PurePosixPath(v.file).with_suffix("") for v in verdicts if not v.reason}
    rows = [
        (image, file, "another copy", f"{detail}; a readable photo of the same name is in the folder")
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
                f"dataset.folder.captioner is {settings.captioner!r}, but no function to write captions was passed"
            )
        merged.update(write_captions(place, silent, settings))
        model = settings.captioner
    elif silent and not merged:
        raise GraceError(_no_captions(settings, place))
    rows += [(_id(file), file, "no caption", "has no caption") for file in usable if file not in merged]
    skipped = skipped_table(rows)
    hint = "fix them, or remove them and their captions" if merged else _no_captions(settings, place)
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
    """Usable files without their duplicates; captions merged from all copies; rows describing the duplicates."""
    good = [verdict for verdict in verdicts if not verdict.reason]
    first = first_of(pd.Series([verdict.digest for verdict in good], dtype=object)).tolist() if good else []
    usable, merged, repeated = [], {}, []
    for number, (verdict, place) in enumerate(zip(good, first, strict=True)):
        kept = good[place].file
        if place == number:
            usable.append(verdict.file)
        else:
            detail = f"is identical to {kept}, which is kept with the captions of both"
            repeated.append((_id(verdict.file), verdict.file, "duplicate", detail))
        if verdict.file in captions:
            merged[kept] = list(dict.fromkeys([*merged.get(kept, []), *captions[verdict.file]]))
    return usable, merged, repeated


def _tables(
    files: list[str], captions: dict[str, list[str]], settings: Folder, place: Path
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tables of images and captions, with a seeded split: at least one training and one test image."""
    shares = {"test": settings.test_share, "val": settings.val_share}
    counts = {split: round(share * len(files)) for split, share in shares.items()}
    counts["test"] = max(1, counts["test"])
    train = len(files) - sum(counts.values())
    if train < 1:
        raise GraceError(f"folder of images {place}: {len(files)} usable images are too few to train on and to search")
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
    """The path with whitespace escaped, since runs and qrels cannot contain it; distinct paths stay distinct."""
    return re.sub(r"[\s%\x1c-\x1f\x85]", lambda found: quote(found[0]), _unicode(file))


def _unicode(file: str) -> str:
    """A file name with bytes that are not UTF-8 written as escapes."""
    return file.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _no_captions(settings: Folder, place: Path) -> str:
    if settings.captions == SIDECAR:
        return (
            f"no photo in {place} has a text file beside it (cat.txt or cat.jpg.txt beside cat.jpg, one caption per line); "
            "add them, or set dataset.folder.captioner"
        )
    if settings.captions:
        return f"add captions to {settings.captions}, or set dataset.folder.captioner"
    return (
        f"the images in {place} have no captions, which training needs: set dataset.folder.captions to a CSV, TSV or JSONL "
        "file (columns file and caption), or to 'sidecar' for text files beside the images, or set "
        "dataset.folder.captioner to have a model write them"
    )
