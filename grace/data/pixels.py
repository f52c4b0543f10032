"""Convert a decoded image to RGB: grey of more than 8 bits, transparent colours, alpha. Part of `grace.data.images`.

Pillow's own `convert` clips values over 255, and compares a PNG's transparent colour with pixels already scaled to 8 bits.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO, ORIENTATION = 258, 262, 0, 274
"""TIFF and EXIF tags."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
"""The transposition that turns a photo upright, by EXIF orientation."""


def to_rgb(image: Image.Image, content: bytes) -> Image.Image:
    """`image`, decoded from the file bytes `content`, as upright RGB composited over white."""
    bits = _bits(image, content)
    inverted = image.format == "TIFF" and image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO  # type: ignore[attr-defined]
    clear = image.info.get("transparency")
    image = _upright(image)
    if image.mode in ("1", "L", "I", "F") or image.mode.startswith("I;16"):
        return _grey(image, bits, clear, inverted)
    if image.mode == "RGB" and isinstance(clear, tuple):
        pixels = np.asarray(image)
        colour = np.array(clear) >> (bits - 8)  # Pillow keeps the high 8 of 16 bits
        return Image.fromarray(np.where((pixels == colour).all(-1, keepdims=True), 255, pixels).astype(np.uint8))
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        image = image.convert({"La": "LA"}.get(image.mode, "RGBA")).convert("RGBA")
        ground = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(ground, image).convert("RGB")
    return image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    """`image` turned as its EXIF says; unchanged if the EXIF cannot be read."""
    try:
        turn = TURNS.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # Pillow raises SyntaxError, struct.error, KeyError and more; the pixels are fine
        turn = None
    return image if turn is None else image.transpose(turn)


def _grey(image: Image.Image, bits: int, clear: object, inverted: bool) -> Image.Image:
    values = np.asarray(image)
    see_through = np.zeros(values.shape, dtype=bool)
    if isinstance(clear, int):  # in the file's own bit depth; Pillow has scaled 1, 2 and 4 bits to 0..255
        scale = 1 if bits >= 8 or image.mode == "1" else 255 // (2**bits - 1)
        see_through = values == (bool(clear) if image.mode == "1" else clear * scale)
    if image.mode.startswith("I;16"):
        grey = (values.astype(np.uint16) >> (bits - 8)).astype(np.uint8)
        grey = 255 - grey if inverted else grey
    elif image.mode in ("I", "F"):
        grey = _stretched(values.astype(np.float64))
        grey = 255 - grey if inverted else grey
    else:
        grey = np.asarray(image.convert("L"))
    return Image.fromarray(np.where(see_through, np.uint8(255), grey)).convert("RGB")


def _bits(image: Image.Image, content: bytes) -> int:
    """Bits per sample in the file: as stated by PNG and TIFF, else 16 or 8 by the mode."""
    if image.format == "PNG":
        return content[24]
    if image.format == "TIFF":
        said = image.tag_v2.get(BITS_PER_SAMPLE, (8,))  # type: ignore[attr-defined]
        return int(max(said) if isinstance(said, tuple) else said)
    return 16 if image.mode.startswith("I;16") else 8


def _stretched(values: np.ndarray) -> np.ndarray:
    """Scale grey values [H, W] to uint8 from the smallest to the largest finite value; a constant image becomes black."""
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
    scaled = (np.nan_to_num(values, nan=low, posinf=high, neginf=low) - low) / (high - low or 1.0)
    return (255 * scaled).round().astype(np.uint8)
