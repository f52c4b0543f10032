"""Structured identifiers for COCO's size and for a million images: time, memory, depth and balance of the tree.

Draws embeddings (float32 [images, 768], L2-normalised) from a few thousand topics of unequal size, each a low-dimensional
cloud, writes them and a data set of that many images to a folder, runs `python -m grace identifiers` twice with one seed and
once with another (--once: a single run), and writes a JSON file:

    python -m benchmarks.data.structured_identifiers --images 123287 --output docs/results/structured_123k.json
    python -m benchmarks.data.structured_identifiers --images 1000000 --once --output docs/results/structured_1m.json

Runs with the same seed must have the same fingerprint. A million images need 3 GB of disk in --folder (default: a temporary
folder, deleted at the end).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.data.measuring import circumstances, measured
from grace.data.tables import write_dataset
from grace.identifiers.base import load_identifiers
from grace.system.files import read_json, write_json

WIDTH, TOPIC_WIDTH, TOPICS = 768, 24, 3000
CHUNK = 20_000


def draw_embeddings(path: Path, images: int, seed: int = 0) -> None:
    """Write a .npy file chunk by chunk: topic sizes are proportional to 1/rank, and each topic spans its own subspace."""
    rng = np.random.default_rng(seed)
    array = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(images, WIDTH))
    centres = rng.normal(size=(TOPICS, WIDTH)).astype(np.float32)
    bases = rng.normal(size=(TOPICS // 10, TOPIC_WIDTH, WIDTH)).astype(np.float32) / np.sqrt(TOPIC_WIDTH)
    share = 1 / np.arange(1, TOPICS + 1)
    for start in range(0, images, CHUNK):
        topics = np.sort(rng.choice(TOPICS, size=min(CHUNK, images - start), p=share / share.sum()))
        inside = rng.normal(size=(len(topics), TOPIC_WIDTH)).astype(np.float32)
        rows = centres[topics]
        for topic in np.unique(topics):
            own = topics == topic
            rows[own] += inside[own] @ bases[topic % len(bases)]
        rows += 0.5 * rng.normal(size=rows.shape).astype(np.float32)
        rows = rng.permutation(rows)
        array[start : start + len(rows)] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    array.flush()


def make_inputs(folder: Path, images: int) -> None:
    """Write the folders dataset, embeddings and tokenizer that the stage reads."""
    for name in ("dataset", "embeddings", "pseudo_queries"):
        (folder / name).mkdir(parents=True)
    ids = pd.Series(np.arange(images)).astype(str)
    # no val images, so the array is used without a copy
    splits = np.where(np.arange(images) % 10 == 0, "test", "train")
    table = pd.DataFrame({"image_id": ids, "split": splits, "file": ids + ".jpg", "source_split": splits})
    captions = table[["image_id", "split"]].assign(caption_id="c" + ids, text="a photo")
    summary = {"name": "drawn", "source": "drawn", "images_dir": "images", "license": "none"}
    write_dataset(folder / "dataset", table, captions, summary)
    draw_embeddings(folder / "embeddings/image_embeddings.npy", images)
    few = '{"train_images": 20, "val_images": 2, "test_images": 5}'
    measured("-m", "grace", "dataset", "scenes", "--output", folder / "few", "--settings", few)
    measured("-m", "grace", "tokenizer", "--dataset", folder / "few", "--output", folder / "tokenizer")


def assign(folder: Path, name: str, seed: int, settings: dict[str, int]) -> dict[str, float]:
    """Run the stage once into the folder `name`."""
    kinds = {kind.replace("_", "-"): folder / kind for kind in ("dataset", "tokenizer", "embeddings", "pseudo_queries")}
    inputs = [part for kind, path in kinds.items() for part in (f"--{kind}", path)]
    return measured(
        "-m", "grace", "identifiers", "--scheme", "structured", "--seed", seed, *inputs, "--output", folder / name,
        "--settings", json.dumps(settings),
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=123_287)
    parser.add_argument("--clusters", type=int, default=30)
    parser.add_argument("--leaf-size", type=int, default=30)
    parser.add_argument("--once", action="store_true", help="a single run")
    parser.add_argument("--folder", type=Path, default=None, help="folder for inputs and outputs; kept if given")
    parser.add_argument("--output", type=Path, required=True)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        if not (folder / "tokenizer").exists():
            make_inputs(folder, given.images)
        settings = {"clusters": given.clusters, "leaf_size": given.leaf_size}
        seeds = {"one": 0} if given.once else {"one": 0, "again": 0, "other": 1}
        runs = {name: assign(folder, name, seed, settings) for name, seed in seeds.items()}
        prints = {name: load_identifiers(folder / name).fingerprint for name in runs}
        statistics = read_json(folder / "one/statistics.json")
    write_json(
        given.output,
        {
            "images": given.images,
            "width": WIDTH,
            **settings,
            "runs": runs,
            "fingerprints": prints,
            "lengths": statistics["lengths"],
            "tree": statistics["tree"],
            **circumstances(),
        },
    )


if __name__ == "__main__":
    main()
