"""Which files of a folder are images, and whether any of them has changed.

Loads nothing heavy: the workflow asks for `listing_digest` whenever it starts. Part of `python -m grace dataset folder`.
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
    # listed as not supported, not overlooked
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
"""What stands after `ftyp` in a file of a phone."""
BEGINNINGS = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"II*\0", b"MM\0*", b"\xff\x0a", b"\0\0\0\x0cJXL ")
"""How files of images begin, for those whose name does not say that they are one."""


def image_files(place: Path, but_not: Path | None = None, endings: tuple[str, ...] = ENDINGS) -> list[str]:
    """Paths (with /, relative to `place`, sorted) of the files that look like images; hidden ones and `but_not` left out.

    A file looks like an image by its ending, or by its first bytes where it has no ending or a stretched one (`.jpg_large`).
    Linked folders are followed, each once; one that leads to `place` or above it is not.
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
    """Whether a file without an ending, or with more behind an image's ending, begins as an image."""
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
    """What two paths of one folder have in common."""
    try:
        found = folder.stat()
    except OSError:  # a link to nothing
        return folder
    return found.st_dev, found.st_ino


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
