"""The data card of the report: what the data are, whose they are, and what is wrong with them.

Part of `python -m grace report`; reads the dataset folder (tables, `dataset.json`, `skipped.parquet`), the image embeddings where
there are any, and the pictures of the examples. Returns plain values; the template escapes them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from grace.data.skipped import read_skipped
from grace.data.tables import SPLITS, DatasetTables
from grace.report.duplicates import SAMPLE, Nearest, nearest, same_captions
from grace.report.gallery import Pictures

EXAMPLES = {"train": 4, "test": 4}
"""Images shown of each split."""
PAIRS = 4
"""Closest pairs of images shown."""
SKIPPED_SHOWN = 50
VALIDATED = "memorised; its captions choose the model"
ROLES = {"train": "seen in training", "val": "unused", "test": "the gallery and the queries"}


def data_card(
    dataset: DatasetTables,
    vectors: np.ndarray | None,
    pictures: Pictures | None,
    threshold: float,
    validated: bool = False,
) -> dict[str, Any]:
    """Everything that the section shows; without `pictures` no example and no pair is shown. `validated`: val had a use."""
    return {
        "facts": facts(dataset),
        "splits": split_rows(dataset, validated),
        "examples": [] if pictures is None else examples(dataset, pictures),
        "skipped": skipped(dataset),
        "duplicates": duplicate_rows(dataset, vectors, pictures, threshold),
    }


def facts(dataset: DatasetTables) -> list[tuple[str, str]]:
    """Source, licence, terms and how the split was made."""
    summary = dataset.summary
    found = [("Name", summary["name"]), ("Source", SOURCES.get(summary["source"], summary["source"]))]
    if summary.get("json_file"):
        found.append(("File", summary["json_file"]))
    found.append(("Licence", summary["license"] or "not stated"))
    for key, label in (("terms", "Terms"), ("address", "Address")):
        if summary.get(key):
            found.append((label, summary[key]))
    found.append(("Split", _split_words(summary)))
    if summary.get("captions"):
        found.append(("Captions", summary["captions"]))
    if summary.get("captioner"):
        said = f"{summary['captioner']} wrote those of {summary.get('captioned_images', 0):,} images: no ground truth"
        found.append(("Captioner", said))
    return found


SOURCES = {
    "scenes": "drawn by this project",
    "karpathy": "a JSON file in Karpathy's format",
    "folder": "a folder of images",
}


def split_rows(dataset: DatasetTables, validated: bool = False) -> list[dict[str, str]]:
    """A row a split: images, captions, captions an image, words a caption."""
    rows = []
    for split in SPLITS:
        images, captions = dataset.images_of(split), dataset.captions_of(split)
        each = captions["image_id"].value_counts()
        words = caption_words(captions)
        rows.append(
            {
                "split": split,
                "role": VALIDATED if validated and split == "val" else ROLES[split],
                "images": f"{len(images):,}",
                "captions": f"{len(captions):,}",
                "each": _spread(each, 1) if len(each) else "–",
                "words": _spread(words, 0) if len(words) else "–",
            }
        )
    return rows


def caption_words(captions: pd.DataFrame) -> pd.Series:
    """Words of every caption, split at white space."""
    return captions["text"].str.split().str.len().astype(int)


def word_counts(dataset: DatasetTables) -> dict[str, dict[int, int]]:
    """Captions by their number of words, of every split that has any."""
    found = {}
    for split in SPLITS:
        captions = dataset.captions_of(split)
        if len(captions):
            found[split] = caption_words(captions).value_counts().sort_index().to_dict()
    return found


def examples(dataset: DatasetTables, pictures: Pictures) -> list[dict[str, Any]]:
    """A few images of train and test with all their captions, drawn at random with a fixed seed."""
    shown = []
    for number, (split, count) in enumerate(EXAMPLES.items()):
        ids = dataset.images_of(split)["image_id"].to_numpy()
        drawn = np.random.default_rng([0, number]).permutation(len(ids))[:count]
        captions = dataset.captions_of(split)
        for image in ids[drawn]:
            texts = captions.loc[captions["image_id"] == image, "text"].tolist()
            shown.append({"split": split, "image": image, "uri": pictures.uri(image), "captions": texts})
    return shown


def skipped(dataset: DatasetTables) -> dict[str, Any] | None:
    """What was left out, and why; None where no image was checked."""
    table = read_skipped(dataset.folder)
    if table is None:
        return None
    counts = table["reason"].value_counts()
    return {
        "total": f"{len(table):,}",
        "of": f"{len(table) + len(dataset.images):,}",
        "counts": [(str(reason), f"{count:,}") for reason, count in counts.items()],
        "rows": table.head(SKIPPED_SHOWN).to_dict("records"),
        "more": max(0, len(table) - SKIPPED_SHOWN),
    }


def duplicate_rows(
    dataset: DatasetTables,
    vectors: np.ndarray | None,
    pictures: Pictures | None,
    threshold: float,
    validated: bool = False,
) -> dict[str, Any]:
    """What stands twice: files, pictures, captions; `pairs` are the closest pictures."""
    rows: list[tuple[str, str, str]] = []
    files = dataset.summary.get("duplicates")
    if files:
        said = "they stay, because the split is a published one"
        rows.append(("Images with the bytes of an earlier one", f"{files['identical_files']:,}", said))
        rows.append(("of these, the other one is in another split", f"{files['across_splits']:,}", ""))
    pairs: list[dict[str, Any]] = []
    if vectors is not None:
        test = np.flatnonzero((dataset.images["split"] == "test").to_numpy())
        rest = np.flatnonzero((dataset.images["split"] != "test").to_numpy())
        for place, among in (("an image of train or val", rest), ("another test image", test)):
            found = nearest(vectors, test, among)
            if found is None:
                continue
            said = f"cosine of their embeddings at least {threshold:g}"
            said += f"; of {SAMPLE:,} test images drawn at random" if len(test) > SAMPLE else ""
            rows.append((f"Test images nearly the same as {place}", f"{found.at_least(threshold):,}", said))
            pairs += _pairs(found, place, dataset, pictures)
    same = same_captions(dataset.captions)
    rows.append(
        ("Test captions that an image of train or val has too", f"{same['across']:,}", "but for case and blanks")
    )
    rows.append(
        ("Test captions that another test image has too", f"{same['within']:,}", "only one of them counts as right")
    )
    return {"rows": rows, "pairs": pairs, "embeddings": vectors is not None}


def _pairs(found: Nearest, place: str, dataset: DatasetTables, pictures: Pictures | None) -> list[dict[str, Any]]:
    if pictures is None:
        return []
    ids, splits = dataset.images["image_id"].to_numpy(), dataset.images["split"].to_numpy()
    return [
        {
            "place": place,
            "similarity": f"{similarity:.3f}",
            "images": [{"id": ids[row], "split": splits[row], "uri": pictures.uri(ids[row])} for row in (one, other)],
        }
        for one, other, similarity in found.closest(PAIRS)
    ]


def _split_words(summary: dict[str, Any]) -> str:
    said = "as its file has it" if summary["source"] == "karpathy" else "drawn with the seed"
    if summary.get("restval"):
        said += {"train": "; restval counts as train", "drop": "; restval is left out"}[summary["restval"]]
    if summary.get("fold"):
        said += f"; of test the thousand number {summary['fold']} alone (COCO 1K)"
    return said


def _spread(values: pd.Series, digits: int) -> str:
    """`median (fewest to most)`, or the one value."""
    low, high = int(values.min()), int(values.max())
    return f"{low:,}" if low == high else f"{values.median():,.{digits}f} ({low:,} to {high:,})"
