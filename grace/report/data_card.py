"""The data card of the report: origin and licence of the data, their size, and their flaws.

Part of `python -m grace report`; reads the dataset folder (tables, `dataset.json`, `skipped.parquet`), the image embeddings
if they exist, and the pictures of the examples. Returns plain values; the template escapes them.
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
"""Number of images shown from each split."""
PAIRS = 4
"""Number of closest pairs of images shown."""
SKIPPED_SHOWN = 50
VALIDATED = "images are memorised; captions select the model"
ROLES = {"train": "seen in training", "val": "unused", "test": "the gallery and the queries"}


def data_card(
    dataset: DatasetTables,
    vectors: np.ndarray | None,
    pictures: Pictures | None,
    threshold: float,
    validated: bool = False,
) -> dict[str, Any]:
    """Everything the section shows; without `pictures`, no examples or pairs. `validated`: whether val was used."""
    return {
        "facts": facts(dataset),
        "splits": split_rows(dataset, validated),
        "examples": [] if pictures is None else examples(dataset, pictures),
        "skipped": skipped(dataset),
        "duplicates": duplicate_rows(dataset, vectors, pictures, threshold),
    }


def facts(dataset: DatasetTables) -> list[tuple[str, str]]:
    """Source, licence, terms and the origin of the split."""
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
        said = f"{summary['captioner']} wrote those of {summary.get('captioned_images', 0):,} images: not ground truth"
        found.append(("Captioner", said))
    return found


SOURCES = {
    "scenes": "drawn by this project",
    "karpathy": "a JSON file in Karpathy's format",
    "folder": "a folder of images",
}


def split_rows(dataset: DatasetTables, validated: bool = False) -> list[dict[str, str]]:
    """One row per split: images, captions, captions per image, words per caption."""
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
    """Number of words in every caption, split at whitespace."""
    return captions["text"].str.split().str.len().astype(int)


def word_counts(dataset: DatasetTables) -> dict[str, dict[int, int]]:
    """Number of captions by number of words, for every split that has captions."""
    found = {}
    for split in SPLITS:
        captions = dataset.captions_of(split)
        if len(captions):
            found[split] = caption_words(captions).value_counts().sort_index().to_dict()
    return found


def examples(dataset: DatasetTables, pictures: Pictures) -> list[dict[str, Any]]:
    """A few train and test images with all their captions, drawn at random with a fixed seed."""
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
    """The skipped images and the reasons; None if images were not checked."""
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
    """Duplicate files, pictures and captions; `pairs` are the most similar pictures."""
    rows: list[tuple[str, str, str]] = []
    files = dataset.summary.get("duplicates")
    if files:
        said = "kept, because the split is a published one"
        rows.append(("Images identical to an earlier one", f"{files['identical_files']:,}", said))
        rows.append(("of these, identical to an image of another split", f"{files['across_splits']:,}", ""))
    pairs: list[dict[str, Any]] = []
    if vectors is not None:
        test = np.flatnonzero((dataset.images["split"] == "test").to_numpy())
        rest = np.flatnonzero((dataset.images["split"] != "test").to_numpy())
        for place, among in (("an image of train or val", rest), ("another test image", test)):
            found = nearest(vectors, test, among)
            if found is None:
                continue
            said = f"cosine of their embeddings at least {threshold:g}"
            said += f"; among {SAMPLE:,} test images drawn at random" if len(test) > SAMPLE else ""
            rows.append((f"Test images nearly identical to {place}", f"{found.at_least(threshold):,}", said))
            pairs += _pairs(found, place, dataset, pictures)
    same = same_captions(dataset.captions)
    rows.append(
        ("Test captions shared with an image of train or val", f"{same['across']:,}", "ignoring case and spacing")
    )
    rows.append(
        (
            "Test captions shared with another test image",
            f"{same['within']:,}",
            "only one of the images counts as correct",
        )
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
    said = "as in the file" if summary["source"] == "karpathy" else "random, seeded"
    if summary.get("restval"):
        said += {"train": "; restval is part of train", "drop": "; restval is left out"}[summary["restval"]]
    if summary.get("fold"):
        said += f"; test is fold {summary['fold']} of 1,000 images (COCO 1K)"
    return said


def _spread(values: pd.Series, digits: int) -> str:
    """`median (minimum to maximum)`, or the only value."""
    low, high = int(values.min()), int(values.max())
    return f"{low:,}" if low == high else f"{values.median():,.{digits}f} ({low:,} to {high:,})"
