"""Found images side by side: a row of thumbnails a caption, ranked from the left. Part of the command `search`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from grace.data.images import read_image
from grace.errors import GraceError

SIDE = 200
"""Sides of the square that a thumbnail is fitted into, pixels."""
GAP, LINE = 8, 22
"""Pixels between thumbnails; height of a line of text."""
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


@dataclass(frozen=True)
class Found:
    """An image that was found, with its score: a log-probability, nats."""

    path: Path
    score: float


def image_format(path: Path) -> str:
    """Pillow's name of the format that the ending of `path` says."""
    if path.suffix.lower() not in FORMATS:
        raise GraceError(f"{path}: a picture is written as {', '.join(FORMATS)}; give it one of these endings")
    return FORMATS[path.suffix.lower()]


def contact_sheet(rows: list[tuple[str, list[Found]]]) -> Image.Image:
    """One picture of all captions: each is a line of text, its images below it with rank, score and file name below each."""
    font = ImageFont.load_default(size=15)
    across = max((len(found) for _, found in rows), default=0)
    height = LINE + SIDE + LINE + 2 * GAP
    sheet = Image.new("RGB", (max(1, across) * (SIDE + GAP) + GAP, len(rows) * height + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (caption, found) in enumerate(rows):
        top = GAP + row * height
        draw.text((GAP, top), _fitting(caption, sheet.width - 2 * GAP, draw, font), "black", font=font)
        for place, one in enumerate(found):
            left = GAP + place * (SIDE + GAP)
            small = ImageOps.contain(read_image(one.path), (SIDE, SIDE))
            sheet.paste(small, (left + (SIDE - small.width) // 2, top + LINE + (SIDE - small.height) // 2))
            said = f"{place + 1}  {one.score:.2f}  {one.path.name}"
            draw.text((left, top + LINE + SIDE), _fitting(said, SIDE, draw, font), "black", font=font)
    return sheet


def _fitting(text: str, width: int, draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont) -> str:
    """`text`, cut with dots where it is wider than `width` pixels."""
    if draw.textlength(text, font=font) <= width:
        return text
    kept = next(end for end in range(len(text), -1, -1) if draw.textlength(text[:end] + "...", font=font) <= width)
    return text[:kept] + "..."
