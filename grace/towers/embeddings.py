"""The stage `encode`: every image through the vision tower once, into memory-mapped arrays.

Reads the dataset and tower folders; writes `image_embeddings.npy` (f32 [N, D], L2-normalised), `visual_tokens.npy` (f16
[N, T, C]), `pad_tokens.npy` (f16 [1, T, C], the one pad image of every retrieve sample) and `encode.json`. Row order is
that of images.parquet.

    python -m grace encode --dataset results/scenes/dataset --tower results/scenes/tower --output results/scenes/embeddings

Images are decoded in parallel, a few ahead of the tower. The arrays grow in `{output}_state/`, because Snakemake deletes the
outputs of a job that fails; every `SAVE_EVERY` batches `done.json` there says how far they are written, and a run of the same
images, tower and settings goes on from there. Only a batch is in memory at a time.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from grace.data.images import read_ahead
from grace.data.tables import DatasetTables, load_dataset
from grace.records.stage import stage
from grace.system.errors import GraceError
from grace.system.files import (
    check_output_folder,
    check_space,
    need,
    read_array,
    read_json,
    replacing_folder,
    write_array,
    write_json,
)
from grace.system.weights import weights_digest
from grace.towers import open_tower
from grace.workflow.config import Tower
from grace.workflow.stages import STAGES

PAD_COLOUR = (128, 128, 128)
SAVE_EVERY = 20
"""Batches after which what is written is made sure of."""
ARRAYS = ("image_embeddings.npy", "visual_tokens.npy")
DONE = "done.json"


@stage(
    "encode",
    settings=lambda given: given.model_dump(mode="json", include={"kind", given.kind, "encode_batch"}),
    photos=True,
)
def encode(*, dataset: Path, tower: Path, output: Path, settings: Tower) -> None:
    """Encode all images of the data set, and the pad image; go on where an earlier run of the same inputs was ended."""
    output = Path(output)
    check_output_folder(output, "encode")
    tables = load_dataset(dataset)
    model = open_tower(tower)
    state = output.with_name(f"{output.name}_state")
    pad_embedding, pad_tokens = model.encode_images([Image.new("RGB", (224, 224), PAD_COLOUR)])
    pad_tokens = as_stored(pad_embedding, pad_tokens, ["the pad image"])[1]
    shapes = ((len(tables.images), pad_embedding.shape[1]), (len(tables.images), *pad_tokens.shape[1:]))
    key = _key(tables, Path(tower), settings)
    done, arrays = _claim(state, key, shapes)
    for reached in _filled(model, tables, settings.encode_batch, done, arrays):
        write_json(state / DONE, {"key": key, "images": reached})
    with replacing_folder(output, "encode") as folder:
        for name in ARRAYS:
            shutil.move(state / name, folder / name)
        write_array(folder / "pad_tokens.npy", pad_tokens)
        summary = {
            "images": shapes[0][0],
            "embedding_dim": shapes[0][1],
            "visual_tokens": list(shapes[1][1:]),
            "tower": {
                **read_json(Path(tower) / "config.json", "tower configuration"),
                "weights_sha256": weights_digest(model.model),
                **({"activation": model.activation} if hasattr(model, "activation") else {}),
            },
        }
        write_json(folder / "encode.json", summary)
    shutil.rmtree(state)


def _filled(model: Any, tables: DatasetTables, batch: int, done: int, arrays: tuple[np.ndarray, ...]) -> Iterator[int]:
    """Write the rows from `done` on; tell how many are safe on disk whenever some are.

    Batches begin at multiples of `batch` wherever a run begins, so that going on changes no bit.
    """
    files = tables.images["file"].tolist()
    embeddings, tokens = arrays
    known = model.known_images(tables) if hasattr(model, "known_images") else None
    images = read_ahead([] if known else [tables.image_path(file) for file in files[done:]])
    with tqdm(total=len(files), initial=done, desc="encode", unit="image", disable=None) as bar:
        for number, start in enumerate(range(done, len(files), batch), start=1):
            rows = slice(start, start + batch)
            vectors, patches = known(rows) if known else model.encode_images(list(islice(images, batch)))
            embeddings[rows], tokens[rows] = as_stored(vectors, patches, files[rows])
            bar.update(len(vectors))
            if number % SAVE_EVERY == 0 or start + batch >= len(files):
                embeddings.flush()
                tokens.flush()
                yield min(start + batch, len(files))


def as_stored(vectors: Tensor, patches: Tensor, files: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings f32 [B, D] and visual tokens f16 [B, T, C] as they are written.

    A number that is not finite, and a token too large for f16, is a `GraceError` that names the first such image.
    """
    half = patches.half()
    for what, given, kept in (("an embedding", vectors, vectors), ("visual tokens", patches, half)):
        bad = ~torch.isfinite(kept.flatten(1)).all(1)
        if not bad.any():
            continue
        row = int(bad.nonzero()[0])
        if torch.isfinite(given[row]).all():
            raise GraceError(
                f"the tower gives {what} of up to {given[row].abs().max():.4g} for {files[row]}; visual tokens are stored as "
                f"float16, which ends at {torch.finfo(torch.half).max:.0f}: choose another tower"
            )
        raise GraceError(
            f"the tower gives {what} that is not finite for {files[row]}; its weights may be broken, or its training diverged"
        )
    return vectors.numpy(), half.numpy()


def _claim(state: Path, key: str, shapes: tuple[tuple[int, ...], ...]) -> tuple[int, tuple[np.ndarray, np.ndarray]]:
    """The images that are written already, and the arrays; of other inputs, or incomplete, the state begins anew."""
    found = read_json(state / DONE, "state of encode") if (state / DONE).exists() else {}
    fits = found.get("key") == key and all((state / name).exists() for name in ARRAYS)
    done = found["images"] if fits else 0
    if done:
        print(f"going on from image {done} of {shapes[0][0]}", flush=True)
    else:
        shutil.rmtree(state, ignore_errors=True)
        state.mkdir(parents=True)
        check_space(state, 4 * int(np.prod(shapes[0])) + 2 * int(np.prod(shapes[1])), "encode")
    arrays = tuple(
        np.lib.format.open_memmap(state / name, mode="r+" if done else "w+", dtype=dtype, shape=shape)
        for name, dtype, shape in zip(ARRAYS, (np.float32, np.float16), shapes, strict=True)
    )
    write_json(state / DONE, {"key": key, "images": done})
    return done, arrays


def _key(tables: DatasetTables, tower: Path, settings: Tower) -> str:
    """What the arrays depend on: images, their order, size and time, the tower's files, settings, this code."""
    said = [STAGES["encode"], settings.model_dump(mode="json"), tables.stamps()]
    found = hashlib.sha256(json.dumps(said).encode())
    for path in sorted(path for path in tower.rglob("*") if path.is_file()):
        with open(path, "rb") as file:
            found.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()


@dataclass(frozen=True)
class Embeddings:
    """The arrays of an embeddings folder."""

    vectors: np.ndarray  # f32 [N, D], memory-mapped
    tokens: np.ndarray  # f16 [N, T, C], memory-mapped
    pad: np.ndarray  # f16 [1, T, C]

    @property
    def width(self) -> int:
        return int(self.tokens.shape[2])

    def visual(self, rows: list[int] | np.ndarray) -> Tensor:
        """Visual tokens of the given images, f32 [U, T, C]; row -1 is the pad image."""
        rows = np.asarray(rows)
        out = np.empty((len(rows), *self.tokens.shape[1:]), dtype=np.float32)
        out[rows < 0] = self.pad[0]
        out[rows >= 0] = self.tokens[rows[rows >= 0]]
        return torch.from_numpy(out)


def load_embeddings(folder: Path, images: int) -> Embeddings:
    """Open the arrays and check them against the number of images."""
    need(folder, "embeddings folder")
    found = Embeddings(
        read_array(folder / "image_embeddings.npy", "image embeddings"),
        read_array(folder / "visual_tokens.npy", "visual tokens"),
        read_array(folder / "pad_tokens.npy", "pad tokens"),
    )
    if len(found.vectors) != images or len(found.tokens) != images:
        raise GraceError(
            f"embeddings {folder} are of {len(found.vectors)} images, the data set has {images}; run encode again"
        )
    return found
