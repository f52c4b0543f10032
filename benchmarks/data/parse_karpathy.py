"""Time and memory of parsing COCO's JSON into tables, on a generated file of the same size.

Writes a JSON file in Karpathy's format with COCO's 123,287 images (82,783 train, 30,504 restval, 5,000 val, 5,000 test) and
616,767 captions (with tokens, like the published file). In a separate process, reads it with
`grace.data.karpathy.parse_karpathy`, and checks and writes the tables of `grace.data.tables`. Photographs are not involved:

    python -m benchmarks.data.parse_karpathy --output docs/results/parse_coco.json
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path

from benchmarks.data.measuring import circumstances, measured
from grace.system.files import read_json, write_json

SPLITS = {"train": 82_783, "restval": 30_504, "val": 5_000, "test": 5_000}
CAPTIONS = {5: 122_959, 6: 324, 7: 4}
"""Number of images by number of captions, as in dataset_coco.json."""
WORDS = (
    *(
        "a",
        "the",
        "man",
        "woman",
        "dog",
        "cat",
        "street",
        "red",
        "of",
        "on",
        "in",
        "with",
        "sitting",
        "standing",
        "large",
    ),
    *("two", "people", "and", "next", "to", "table"),
)


def write_document(path: Path, seed: int = 0) -> None:
    """Write a JSON file with COCO's counts; captions are random words, about as long as COCO's."""
    rng = random.Random(seed)
    splits = [split for split, count in SPLITS.items() for _ in range(count)]
    counts = [number for number, images in CAPTIONS.items() for _ in range(images)]
    rng.shuffle(splits)
    rng.shuffle(counts)
    sentid = 0
    with open(path, "w", encoding="utf-8") as file:
        file.write('{"images": [')
        for row, (split, count) in enumerate(zip(splits, counts, strict=True)):
            folder = "train2014" if split == "train" else "val2014"
            name = f"COCO_{folder}_{row:012d}.jpg"
            sentences = []
            for _ in range(count):
                tokens = rng.choices(WORDS, k=rng.randint(8, 15))
                raw = " ".join(tokens).capitalize() + "."
                sentences.append({"tokens": tokens, "raw": raw, "imgid": row, "sentid": sentid})
                sentid += 1
            entry = {
                "filepath": folder, "sentids": [sentence["sentid"] for sentence in sentences], "filename": name,
                "imgid": row, "split": split, "sentences": sentences, "cocoid": 1000 + row,
            }  # fmt: skip
            file.write((", " if row else "") + json.dumps(entry))
        file.write('], "dataset": "coco"}')


def parse(path: Path, output: Path) -> None:
    """Do what the stage `dataset` does with the JSON file, without the photographs."""
    from grace.data.karpathy import parse_karpathy
    from grace.data.tables import write_dataset

    document = read_json(path, "Karpathy JSON file")
    images, captions = parse_karpathy(document, str(path))
    del document
    images = images.assign(file=images["filepath"].str.cat(images["filename"], sep="/"))
    summary = {"name": "coco", "source": "karpathy", "images_dir": "images", "license": "none"}
    write_dataset(output, images, captions, summary)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--parse", type=Path, nargs=2, help="the JSON file and the folder: the measured process itself")
    given = parser.parse_args()
    if given.parse:
        return parse(*given.parse)
    if given.output is None:
        sys.exit("--output is missing")
    with tempfile.TemporaryDirectory() as temporary:
        path, tables = Path(temporary) / "dataset_coco.json", Path(temporary) / "tables"
        tables.mkdir()
        write_document(path)
        size = path.stat().st_size
        found = measured("-m", "benchmarks.data.parse_karpathy", "--parse", path, tables)
        counts = read_json(tables / "dataset.json")["counts"]
    totals = {kind: sum(count[kind] for count in counts.values()) for kind in ("images", "captions")}
    write_json(given.output, {**totals, "json_bytes": size, **found, **circumstances()})


if __name__ == "__main__":
    main()
