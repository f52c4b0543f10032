"""Images: which files are usable, and how they become pixels. Every data set goes through this module.

Pixels: EXIF orientation is applied; everything is converted to RGB; transparency is composited over white; of an animation
or a multi-page file the first frame is used; 9- to 16-bit grey keeps its high 8 bits; 32-bit and float grey is scaled from
its minimum to its maximum; CMYK and palettes are converted.

Files are skipped for one of these reasons: `missing`, `empty` (no bytes), `not an image` (none of `FORMATS`, whatever the
name says), `not supported` (another image format, such as HEIC, JPEG 2000 or camera raw), `not a file` (a named pipe, a
socket, a device or a folder), `broken` (truncated or damaged), `too large` (over `MAX_PIXELS` pixels or `MAX_BYTES` bytes:
not decoded at all), `bad name` (not Unicode, or a path that leaves the folder).

Part of `python -m grace dataset`, `encode`, `tower` and `report`.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import stat
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, UnidentifiedImageError

from grace.data.kinds import PNG, kind_of, without_metadata
from grace.data.listing import RAW
from grace.data.pixels import to_rgb
from grace.system.errors import GraceError
from grace.system.progress import progress

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
MAX_PIXELS = 2 * 89_478_485
"""The limit at which Pillow itself raises a decompression bomb error: 179 million pixels."""
MAX_BYTES = 256 << 20

# Pillow warns at half of MAX_PIXELS; large photographs are fine, and the limit is checked here. Its other warnings (corrupt
# EXIF) do not concern the pixels, and unreadable files are listed with a reason anyway.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.ERROR)


class Unusable(Exception):
    """An image that cannot be used: `reason` is one of those listed above, the message gives details."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True)
class Verdict:
    """What `check_images` found for one file: the sha256 (hex) of its bytes, or a reason and a detail."""

    file: str
    digest: str = ""
    reason: str = ""
    detail: str = ""


def read_image(path: Path) -> Image.Image:
    """Read one image as RGB; raises `GraceError` if it cannot be used."""
    try:
        return to_rgb(*_load(_content(path), path.suffix))
    except Unusable as why:
        raise GraceError(f"image {path} {_say(why)}; replace it or remove it from the data set") from None


def read_ahead(paths: Sequence[Path], threads: int | None = None) -> Iterator[Image.Image]:
    """Yield the images of `paths` in order, decoded by `threads` CPU threads that stay only a few images ahead."""
    threads = threads or min(8, len(os.sched_getaffinity(0)))
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque = deque()
        for path in paths:
            waiting.append(pool.submit(read_image, path))
            if len(waiting) > 4 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def read_images(paths: list[Path], size: int, file: Path) -> np.ndarray:
    """All images resized to RGB uint8 [N, size, size, 3], decoded in parallel; a memory map of the new `file` (.npy)."""
    out = np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=(len(paths), size, size, 3))
    for row, image in enumerate(progress(read_ahead(paths), total=len(paths), desc="read", unit="images")):
        same = image.size == (size, size)
        out[row] = np.asarray(image if same else image.resize((size, size), Image.Resampling.BICUBIC))
    return out


def check_images(folder: Path, files: Iterable[str]) -> list[Verdict]:
    """Check that every file decodes completely; one verdict per file, in order. Parallel, with a progress bar.

    `files` are relative to `folder`. JPEGs are decoded at an eighth of their size, which still reads all of their data in
    a third of the time.
    """
    files = list(files)
    with ThreadPoolExecutor(min(8, len(os.sched_getaffinity(0)))) as pool:
        found = pool.map(lambda file: _check(folder, file), files)
        return list(progress(found, total=len(files), desc="check", unit="images"))


def _check(folder: Path, file: str) -> Verdict:
    try:
        if not _is_inside(file):
            raise Unusable("bad name", "must be a Unicode path inside the folder of images")
        content = _content(folder / file)
        _load(content, PurePosixPath(file).suffix, draft=True)
    except Unusable as why:
        return Verdict(file, reason=why.reason, detail=_say(why))
    return Verdict(file, digest=hashlib.sha256(content).hexdigest())


def _content(path: Path) -> bytes:
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # reading a named pipe would block until something writes to it
            raise Unusable("not a file", "is a named pipe, a socket, a device or a folder")
        if found.st_size > MAX_BYTES:
            raise Unusable("too large", f"has {found.st_size:,} bytes; at most {MAX_BYTES:,} are allowed")
        content = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise Unusable("missing", "does not exist") from None
    except (IsADirectoryError, PermissionError, OSError) as error:
        raise Unusable("broken", f"cannot be read ({error.strerror})") from None
    if not content:
        raise Unusable("empty", "the file has no bytes")
    return content


def _load(content: bytes, ending: str, draft: bool = False) -> tuple[Image.Image, bytes]:
    """The first frame of a file, fully decoded, and the file's bytes; `draft`: at reduced size, for a check only."""
    if ending.lower() in RAW:  # Pillow reads many of these as TIFF and returns the thumbnail
        raise Unusable("not supported", "is a camera raw file: convert it to JPEG or PNG")
    try:
        try:
            return _decoded(content, draft), content
        except (
            ValueError
        ) as error:  # a colour profile or text chunk that is large when unzipped; the pixels may be fine
            if content[:8] != PNG or (
                "too large" not in str(error).lower() and "too much memory" not in str(error).lower()
            ):
                raise
            return _decoded(without_metadata(content), draft), content
    except UnidentifiedImageError:
        kind = kind_of(content, ending)
        if kind:
            raise Unusable("not supported", f"is {kind}: convert it to JPEG or PNG") from None
        raise Unusable("not an image", "cannot identify image file") from None
    except Image.DecompressionBombError:
        raise Unusable("too large", f"more than {MAX_PIXELS:,} pixels") from None
    except Unusable:
        raise
    except Exception as error:  # Pillow raises SyntaxError, OSError, struct.error and more for broken files
        raise Unusable("broken", (str(error).splitlines() or [type(error).__name__])[0]) from None


def _decoded(content: bytes, draft: bool) -> Image.Image:
    image = Image.open(io.BytesIO(content), formats=FORMATS)
    if image.width * image.height > MAX_PIXELS:
        raise Unusable("too large", f"{image.width} x {image.height} pixels; at most {MAX_PIXELS:,} are allowed")
    if draft:
        image.draft("RGB", (max(1, image.width // 8), max(1, image.height // 8)))
    image.load()  # verify() does not notice a truncated JPEG
    return image


def _say(why: Unusable) -> str:
    if why.reason in ("missing", "bad name", "too large", "not supported", "not a file"):
        return str(why)
    return f"cannot be read as {', '.join(FORMATS)} ({why})"


def _is_inside(file: str) -> bool:
    try:
        file.encode("utf-8")
    except UnicodeEncodeError:  # a file name that is not UTF-8, or a lone surrogate from a JSON file
        return False
    path = PurePosixPath(file)
    return "\0" not in file and not path.is_absolute() and ".." not in path.parts
