"""Decoding images: one rule for everybody.

EXIF orientation is applied, everything becomes RGB (alpha over white), an animation gives its first frame.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from tqdm import tqdm

from grace.errors import GraceError


def read_image(path: Path) -> Image.Image:
    """One image as RGB."""
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
                image = image.convert("RGBA")
                ground = Image.new("RGBA", image.size, (255, 255, 255, 255))
                image = Image.alpha_composite(ground, image)
            return image.convert("RGB")
    except FileNotFoundError:
        raise GraceError(f"image {path} does not exist; fetch it or take it out of the data set") from None
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError) as error:
        raise GraceError(
            f"image {path} cannot be decoded ({error}); replace it or take it out of the data set"
        ) from None


def read_images(paths: list[Path], size: int) -> np.ndarray:
    """All images squashed to RGB bytes, uint8 [N, size, size, 3], decoded in two threads."""

    def one(path: Path) -> np.ndarray:
        image = read_image(path)
        return np.asarray(image if image.size == (size, size) else image.resize((size, size), Image.Resampling.BICUBIC))

    out = np.empty((len(paths), size, size, 3), dtype=np.uint8)
    with ThreadPoolExecutor(2) as pool:
        for row, image in enumerate(tqdm(pool.map(one, paths), total=len(paths), desc="images", disable=None)):
            out[row] = image
    return out
