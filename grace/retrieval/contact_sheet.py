"""Search results side by side: the thumbnails of each caption, ranked from the left, ten in a row.

Used by the command `search` and by `System.draw`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from grace.data.images import read_image
from grace.system.errors import GraceError
from grace.system.printable import printable

ACROSS = 10
"""Thumbnails in a row."""
SIDE = 200
"""Side of the square that a thumbnail fits into, pixels."""
GAP, LINE = 8, 22
"""Pixels between thumbnails; height of a line of text."""
FONT = "DejaVuSans.ttf"  # Latin, Greek, Cyrillic, Arabic; Pillow's own font, used if this one is not installed, has only Latin
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
TALLEST = {"PNG": 65_000, "JPEG": 65_000, "WEBP": 16_000}
"""Maximum height of a picture, pixels: the limits of the formats, and for PNG what programs can open."""


@dataclass(frozen=True)
class Tile:
    """An image found, with its score."""

    path: Path
    score: float


def image_format(path: Path) -> str:
    """Pillow's name for the format given by the suffix of `path`."""
    if path.suffix.lower() not in FORMATS:
        raise GraceError(f"{path}: pictures are written as {', '.join(FORMATS)}; use one of these suffixes")
    return FORMATS[path.suffix.lower()]


def check_size(captions: int, top: int, drawn_as: str) -> None:
    """Raise a `GraceError` if `top` images for each of `captions` captions are too high for the format."""
    height = captions * _height(top) + GAP
    if height > TALLEST[drawn_as]:
        raise GraceError(
            f"a picture of {captions} captions with {top} images each would be {height} pixels high, and {drawn_as} allows "
            f"{TALLEST[drawn_as]}; lower --top, or search for fewer captions at a time"
        )


def contact_sheet(rows: Sequence[tuple[str, Sequence[Tile]]]) -> Image.Image:
    """One picture of all captions: a line of text for each, then its images with rank, score and file name below them."""
    font = _font()
    across = min(ACROSS, max((len(found) for _, found in rows), default=1))
    size = (max(1, across) * (SIDE + GAP) + GAP, sum(_height(len(found)) for _, found in rows) + GAP)
    sheet = Image.new("RGB", size, "white")
    draw, top = ImageDraw.Draw(sheet), GAP
    for caption, found in rows:
        draw.text((GAP, top), _fitting(caption, sheet.width - 2 * GAP, draw, font), "black", font=font)
        for place, one in enumerate(found):
            line, column = divmod(place, ACROSS)
            left, above = GAP + column * (SIDE + GAP), top + LINE + line * (SIDE + LINE + GAP)
            small = _thumbnail(one.path)
            sheet.paste(small, (left + (SIDE - small.width) // 2, above + (SIDE - small.height) // 2))
            said = f"{place + 1}  {one.score:.2f}  {one.path.name}"
            draw.text((left, above + SIDE), _fitting(said, SIDE, draw, font), "black", font=font)
        top += _height(len(found))
    return sheet


def _height(images: int) -> int:
    return LINE + max(1, -(-images // ACROSS)) * (SIDE + LINE + GAP) + GAP


def _thumbnail(path: Path) -> Image.Image:
    try:
        return ImageOps.contain(read_image(path), (SIDE, SIDE))
    except GraceError:  # the other images are still worth seeing; this tile says what is wrong
        tile = Image.new("RGB", (SIDE, SIDE), "lightgrey")
        ImageDraw.Draw(tile).text((GAP, SIDE // 2), "cannot be read", "black", font=_font())
        return tile


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    try:
        return ImageFont.truetype(FONT, 15)
    except OSError:
        return ImageFont.load_default(size=15)


def _fitting(text: str, width: int, draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont) -> str:
    """`text` on one line, truncated with dots if it is wider than `width` pixels."""
    text = printable(text)
    if draw.textlength(text, font=font) <= width:
        return text
    kept = next(end for end in range(len(text), -1, -1) if draw.textlength(text[:end] + "...", font=font) <= width)
    return text[:kept] + "..."
