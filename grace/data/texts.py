"""Users' text: how its bytes are decoded, and what a caption may contain.

Used by every reader of users' files: tables of captions and pseudo-queries, text files beside photos, Karpathy's JSON.
"""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from grace.system.errors import GraceError
from grace.system.files import need

UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_CONTROL = re.compile(r"\s*[\x00-\x1f\x7f-\x9f\u2028\u2029][\s\x00-\x1f\x7f-\x9f]*")
_SURROGATE = re.compile("[\ud800-\udfff]")


def read_text(path: Path | str, what: str) -> str:
    """Read a text file: UTF-8 with or without a byte-order mark, or UTF-16 with one (Excel's "Unicode text").

    Raises a `GraceError` that starts with `what` if the file is missing, cannot be read or has another encoding.
    """
    path = need(path, what)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise GraceError(f"{what} {path} cannot be read ({error.strerror})") from None
    encoding = "utf-16" if content.startswith(UTF_16) else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise GraceError(
            f"{what} {path} is not UTF-8 text (byte {error.start}, line {line}); save it as UTF-8 (in Excel: 'CSV UTF-8')"
        ) from None


def harmless(raw: str) -> str:
    """`raw` stripped, with every run of whitespace that contains a line break, tab or control character as one space."""
    return _CONTROL.sub(" ", raw).strip()


def check_whole(text: str, where: str) -> None:
    """Raise a `GraceError` for half a surrogate pair, which JSON can express and UTF-8 cannot."""
    half = _SURROGATE.search(text)
    if half:
        raise GraceError(
            f"{where}: the text contains half a character (\\u{ord(half[0]):04x}, a lone surrogate); "
            "the program that wrote it cut the character in two"
        )
