"""Which files of a folder are images, and whether any of them has changed.

Loads nothing heavy: the workflow asks for `listing_digest` whenever it starts. Part of `python -m grace dataset folder`.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from grace.errors import GraceError

ENDINGS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"),
    *(".heic", ".heif", ".avif", ".jp2", ".ppm", ".pgm", ".tga", ".ico", ".psd"),  # told as unusable, not overlooked
)


def image_files(place: Path, but_not: Path | None = None, endings: tuple[str, ...] = ENDINGS) -> list[str]:
    """Paths (with /, relative to `place`, sorted) of the files that look like images; hidden ones and `but_not` left out."""
    found = []
    for parent, folders, names in os.walk(place, onerror=_refuse):
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and (Path(parent) / name).resolve() != but_not
        )
        for name in names:
            if not name.startswith(".") and name.lower().endswith(endings):
                found.append(Path(parent, name).relative_to(place).as_posix())
    return sorted(found)


def listing_digest(place: Path, but_not: Path, with_texts: bool) -> str:
    """A digest of name, size and time of every image, and of every text file beside them; empty for no folder.

    It is a parameter of the stage `dataset`: a photo that is new, gone, or another one makes it run again.
    """
    if not os.path.isdir(place):  # nor where it cannot be reached; pathlib raises there
        return ""  # the stage says so in words
    digest = hashlib.sha256()
    for file in image_files(place.resolve(), but_not.resolve(), (*ENDINGS, ".txt") if with_texts else ENDINGS):
        try:
            found = (place / file).stat()
            said = f"{file}\0{found.st_size}\0{found.st_mtime_ns}\n"
        except OSError:  # a link to nothing
            said = f"{file}\n"
        digest.update(said.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _refuse(error: OSError) -> None:
    raise GraceError(f"folder {error.filename} cannot be read ({error.strerror})")
