"""Name the format of a file that is not read here, for a helpful error; strip the metadata of a PNG."""

from __future__ import annotations

import struct

from grace.data.listing import HEIF_BRANDS

PNG = b"\x89PNG\r\n\x1a\n"
METADATA = (b"iCCP", b"tEXt", b"zTXt", b"iTXt")
BEGINNINGS = {
    b"\xff\x0a": "JPEG XL", b"\0\0\0\x0cJXL ": "JPEG XL", b"\0\0\0\x0cjP  ": "JPEG 2000", b"\xff\x4f\xff\x51": "JPEG 2000",
    b"8BPS": "a Photoshop document", b"\0\0\x01\0": "an icon (ICO)", b"v/1\x01": "OpenEXR", b"#?RADIANCE": "Radiance HDR",
    b"qoif": "QOI", b"P1": "PNM", b"P2": "PNM", b"P3": "PNM", b"P4": "PNM", b"P5": "PNM", b"P6": "PNM", b"\x0a\x05\x01": "PCX",
}  # fmt: skip
BY_ENDING = {".tga": "TGA", ".svg": "a drawing (SVG)"}
"""Formats without a fixed signature at the start of the file."""


def kind_of(content: bytes, ending: str) -> str:
    """The format of an image that is not supported; empty if it is not recognised as an image."""
    if content[4:8] == b"ftyp" and content[8:12] in HEIF_BRANDS:
        return "HEIC or AVIF"
    if content[4:8] == b"ftyp" and content[8:11] == b"crx":
        return "a camera raw file"
    named = next((kind for start, kind in BEGINNINGS.items() if content.startswith(start)), "")
    return named or BY_ENDING.get(ending.lower(), "")


def without_metadata(content: bytes) -> bytes:
    """A PNG without its colour profile and text chunks, whose unzipped size Pillow limits; the pixels stay the same."""
    kept, place = [content[:8]], 8
    while place + 8 <= len(content):
        (length,) = struct.unpack(">I", content[place : place + 4])
        stop = place + 12 + length
        if content[place + 4 : place + 8] not in METADATA:
            kept.append(content[place:stop])
        place = stop
    return b"".join(kept)
