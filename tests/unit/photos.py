"""Thirty photographs in ten formats and faults, for the tests of images and of the data set `folder`."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (48, 32)


def picture(seed: int, size: tuple[int, int] = SIZE) -> Image.Image:
    """A smooth colourful picture, different for every seed."""
    small = np.random.default_rng(seed).integers(0, 256, size=(4, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)


def bomb_png(side: int = 30_000) -> bytes:
    """A PNG of a few bytes that announces 900 million pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def make_photos(folder: Path) -> dict[str, str]:
    """Write the photos into `folder` (two in a folder below); return {file: reason} of those that cannot be used."""
    (folder / "trip").mkdir(parents=True)
    for number in range(8):
        picture(number).save(folder / f"plain {number}.jpg", quality=90)
    for number, turn in ((8, 6), (9, 3)):
        exif = Image.Exif()
        exif[0x0112] = turn
        picture(number).save(folder / f"trip/turned{number}.jpeg", exif=exif, quality=95)
    for number in (10, 11):
        picture(number).convert("CMYK").save(folder / f"cmyk{number}.jpg")
    picture(12).quantize(32).save(folder / "palette.png")
    picture(13).quantize(32).save(folder / "palette_clear.png", transparency=0)
    for number in (14, 15):
        clear = picture(number).convert("RGBA")
        clear.putalpha(Image.linear_gradient("L").resize(SIZE))
        clear.save(folder / f"alpha{number}.png")
    picture(16).save(folder / "moving.gif", save_all=True, append_images=[picture(90), picture(91)], duration=50)
    picture(17).save(folder / "MOVING.WEBP", save_all=True, append_images=[picture(92)], lossless=True)
    deep = np.linspace(0, 65_535, SIZE[0] * SIZE[1]).astype(np.uint16).reshape(SIZE[::-1])
    Image.fromarray(deep).save(folder / "deep.png")
    Image.fromarray(deep[::-1].copy()).save(folder / "deep.tif")
    Image.fromarray(deep.astype(np.float32) / 7).save(folder / "float.tiff")
    picture(21).save(folder / "still.webp")
    picture(22).save(folder / "old.bmp")
    picture(23).convert("L").save(folder / "ångström 50%.png")
    (folder / "empty.jpg").write_bytes(b"")
    whole = (folder / "plain 1.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "letter.jpg").write_text("This is no photograph.")
    (folder / "bomb.png").write_bytes(bomb_png())
    (folder / "zz copy.jpg").write_bytes((folder / "plain 2.jpg").read_bytes())
    picture(29).save(folder / "speechless.png")
    return {
        "empty.jpg": "empty",
        "cut.jpg": "broken",
        "letter.jpg": "not an image",
        "bomb.png": "too large",
        "zz copy.jpg": "duplicate",
        "speechless.png": "no caption",
    }
