"""Find the image files in a folder, and detect whether any of them has changed.

Imports nothing heavy, because the workflow calls `listing_digest` at every start. Part of `python -m grace dataset folder`.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from grace.system.errors import GraceError

READABLE = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib", ".tif", ".tiff"),
)
RAW = (
    *(
        ".3fr",
        ".arw",
        ".cr2",
        ".cr3",
        ".crw",
        ".dng",
        ".erf",
        ".kdc",
        ".mef",
        ".mrw",
        ".nef",
        ".nrw",
        ".orf",
        ".pef",
        ".raf",
    ),
    *(".rw2", ".rwl", ".sr2", ".srf", ".srw", ".x3f"),
)
ENDINGS = (
    *READABLE,
    # recognised, so that they are reported as not supported instead of ignored
    *(
        ".heic",
        ".heif",
        ".hif",
        ".avif",
        ".jxl",
        ".jp2",
        ".j2k",
        ".jpf",
        ".jpx",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".tga",
        ".ico",
    ),
    *(".psd", ".svg", ".exr", ".hdr", ".qoi", ".pcx", *RAW),
)
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"avif", b"avis")
"""What follows `ftyp` in a phone's HEIC or AVIF file."""
BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"II*\0", b"MM\0*", b"\xff\x0a", b"\0\0\0\x0cJXL ")
"""First bytes of image files, for those whose name does not have an image extension."""


def image_files(place: Path, but_not: Path | None = None, endings: tuple[str, ...] = ENDINGS) -> list[str]:
    """Sorted paths (with /, relative to `place`) of the files that look like images, without hidden ones and `but_not`.

    A file looks like an image if its extension says so or, if it has none or an extended one (`.jpg_large`), if its first
    bytes do. Linked folders are followed once each, but not if they lead to `place` or above it.
    """
    found: list[str] = []
    seen, links = {_identity(place)}, [place]
    while links:
        top = links.pop(0)
        if top != place and (_identity(top) in seen or place.is_relative_to(top.resolve())):
            continue
        for parent, folders, names in os.walk(top, onerror=_refuse):
            seen.add(_identity(Path(parent)))
            here = sorted(Path(parent, name) for name in folders if not name.startswith("."))
            here = [folder for folder in here if folder.resolve() != but_not]
            links += [
                folder for folder in here if folder.is_symlink()
            ]  # real folders first: photos keep their own paths
            folders[:] = [folder.name for folder in here if not folder.is_symlink() and _identity(folder) not in seen]
            for name in names:
                file = Path(parent, name)
                if not name.startswith(".") and (name.lower().endswith(endings) or _begins_as_image(file)):
                    found.append(file.relative_to(place).as_posix())
    return sorted(found)


def _begins_as_image(file: Path) -> bool:
    """Whether a file without an extension, or with an extended one (`.jpg_large`), starts like an image."""
    ending = file.suffix.lower()
    if ending and not ending.startswith(READABLE):
        return False
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            return False
        with open(file, "rb") as content:
            start = content.read(16)
    except OSError:
        return False
    heif = start[4:8] == b"ftyp" and start[8:12] in HEIF_BRANDS
    return start.startswith(BEGINNINGS) or start[8:12] == b"WEBP" or heif


def _identity(folder: Path) -> tuple[int, int] | Path:
    """Device and inode: equal for two paths to the same folder."""
    try:
        found = folder.stat()
    except OSError:  # a dangling link
        return folder
    return found.st_dev, found.st_ino


def listing_digest(place: Path, but_not: Path, with_texts: bool) -> str:
    """A digest of name, size and mtime of every image, and of the text files if asked; empty if there is no such folder.

    It is a parameter of the stage `dataset`, so that the stage runs again when a photo is added, removed or replaced.
    """
    if not os.path.isdir(place):  # also false where access is denied, while pathlib raises
        return ""  # the stage itself reports the error
    digest = hashlib.sha256()
    for file in image_files(place.resolve(), but_not.resolve(), (*ENDINGS, ".txt") if with_texts else ENDINGS):
        try:
            found = (place / file).stat()
            said = f"{file}\0{found.st_size}\0{found.st_mtime_ns}\n"
        except OSError:  # a dangling link
            said = f"{file}\n"
        digest.update(said.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _refuse(error: OSError) -> None:
    raise GraceError(f"folder {error.filename} cannot be read ({error.strerror})")
