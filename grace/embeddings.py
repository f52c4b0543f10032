"""The stage `encode`: every image through the vision tower once, into memory-mapped arrays.

Reads the dataset and tower folders; writes `image_embeddings.npy` (f32 [N, D], L2-normalised), `visual_tokens.npy` (f16
[N, T, C]), `pad_tokens.npy` (f16 [1, T, C], the one pad image of every retrieve sample) and `encode.json`. Row order is
that of images.parquet.

    python -m grace encode --dataset results/scenes/dataset --tower results/scenes/tower --output results/scenes/embeddings
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import trange

from grace.config import Tower
from grace.data.images import read_image
from grace.data.tables import load_dataset
from grace.errors import GraceError
from grace.files import need, read_array, read_json, replacing_folder, write_json
from grace.model.checkpoints import weights_digest
from grace.towers import open_tower

PAD_COLOUR = (128, 128, 128)


def encode(*, dataset: Path, tower: Path, output: Path, settings: Tower) -> None:
    """Encode all images of the data set, and the pad image."""
    tables = load_dataset(dataset)
    model = open_tower(tower)
    files = tables.images["file"].tolist()
    known = model.known_images(tables) if hasattr(model, "known_images") else None
    with replacing_folder(output, "encode") as folder:
        pad_embedding, pad_tokens = model.encode_images([Image.new("RGB", (224, 224), PAD_COLOUR)])
        np.save(folder / "pad_tokens.npy", pad_tokens.half().numpy(), allow_pickle=False)
        shapes = {
            "image_embeddings.npy": ((len(files), pad_embedding.shape[1]), np.float32),
            "visual_tokens.npy": ((len(files), *pad_tokens.shape[1:]), np.float16),
        }
        embeddings, tokens = (
            np.lib.format.open_memmap(folder / name, mode="w+", dtype=dtype, shape=shape)
            for name, (shape, dtype) in shapes.items()
        )
        for start in trange(0, len(files), settings.encode_batch, desc="encode", unit="batch", disable=None):
            rows = slice(start, start + settings.encode_batch)
            if known:
                vectors, patches = known(rows)
            else:
                vectors, patches = model.encode_images([read_image(tables.image_path(file)) for file in files[rows]])
            if not torch.isfinite(vectors).all():
                raise GraceError(f"the tower gives embeddings that are not finite (images {files[start]} ...)")
            embeddings[rows], tokens[rows] = vectors.numpy(), patches.half().numpy()
        embeddings.flush()
        tokens.flush()
        summary = {
            "images": len(files),
            "embedding_dim": int(embeddings.shape[1]),
            "visual_tokens": list(tokens.shape[1:]),
            "tower": {
                **read_json(tower / "config.json", "tower configuration"),
                "weights_sha256": weights_digest(model.model),
            },
        }
        write_json(folder / "encode.json", summary)


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
