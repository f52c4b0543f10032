"""The pixels of a decoded image as RGB: grey of more than 8 bits, transparent colours, alpha. Part of `grace.data.images`.

Pillow's own `convert` cuts values over 255 off, and compares a PNG's transparent colour with pixels that it has scaled to 8 bits.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO, ORIENTATION = 258, 262, 0, 274
"""Tags of TIFF, and of EXIF."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
"""What turns a photo upright, by its EXIF orientation."""


def to_rgb(image: Image.Image, content: bytes) -> Image.Image:
    """`image`, decoded from the file with the bytes `content`, turned upright, as RGB over white."""
    bits = _bits(image, content)
    inverted = image.format == "TIFF" and image.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO  # type: ignore[attr-defined]
    clear = image.info.get("transparency")
    image = _upright(image)
    if image.mode in ("1", "L", "I", "F") or image.mode.startswith("I;16"):
        return _grey(image, bits, clear, inverted)
    if image.mode == "RGB" and isinstance(clear, tuple):
        pixels = np.asarray(image)
        colour = np.array(clear) >> (bits - 8)  # of 16 bits Pillow keeps the high 8
        return Image.fromarray(np.where((pixels == colour).all(-1, keepdims=True), 255, pixels).astype(np.uint8))
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        image = image.convert({"La": "LA"}.get(image.mode, "RGBA")).convert("RGBA")
        ground = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(ground, image).convert("RGB")
    return image.convert("RGB")


def _upright(image: Image.Image) -> Image.Image:
    """`image` turned as its EXIF says; as it stands where the EXIF cannot be read."""
    try:
        turn = TURNS.get(image.getexif().get(ORIENTATION, 1))
    except (
        Exception
    ):  # Pillow raises SyntaxError, struct.error, KeyError and more for corrupt EXIF; the pixels are sound
        turn = None
    return image if turn is None else image.transpose(turn)


def _grey(image: Image.Image, bits: int, clear: object, inverted: bool) -> Image.Image:
    values = np.asarray(image)
    see_through = np.zeros(values.shape, dtype=bool)
    if isinstance(clear, int):  # in units of the file's own bits; Pillow has spread 1, 2 and 4 bits over 0 .. 255
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
    """Bits of a sample in the file: what PNG and TIFF say; else 16 or 8, as the mode does."""
    if image.format == "PNG":
        return content[24]
    if image.format == "TIFF":
        said = image.tag_v2.get(BITS_PER_SAMPLE, (8,))  # type: ignore[attr-defined]
        return int(max(said) if isinstance(said, tuple) else said)
    return 16 if image.mode.startswith("I;16") else 8


def _stretched(values: np.ndarray) -> np.ndarray:
    """Grey of any range [H, W] to bytes, from the least to the greatest finite value; one value alone becomes black."""
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
    scaled = (np.nan_to_num(values, nan=low, posinf=high, neginf=low) - low) / (high - low or 1.0)
    return (255 * scaled).round().astype(np.uint8)
