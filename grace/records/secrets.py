"""Keep secrets out of logs and records.

The value of any environment variable with TOKEN, SECRET, PASSWORD or API_KEY in its name is replaced by `***`, and so are
user name and password in a URL: in records (`masked`), and in everything a command prints, including messages of libraries
(`mask_output`).
"""

from __future__ import annotations

import os
import re
import sys
from typing import Any, TextIO

_NAME = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY", re.IGNORECASE)
_URL = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s/@:]*:[^\s/@]+@", re.IGNORECASE)
_SHORTEST = 8  # a shorter value, such as "true", also occurs in ordinary text


def masked(value: Any) -> Any:
    """`value` (JSON-able, or a string) with every secret replaced."""
    if isinstance(value, str):
        return _mask(value)
    if isinstance(value, dict):
        return {masked(key): masked(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [masked(entry) for entry in value]
    return value


def _mask(text: str) -> str:
    for name, secret in os.environ.items():
        if len(secret) >= _SHORTEST and _NAME.search(name):
            text = text.replace(secret, "***")
    return _URL.sub(r"\1***@", text)


class Masking:
    """A text stream that masks what is written to it and otherwise passes everything on to the wrapped stream."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(_mask(text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def mask_output() -> None:
    """From now on mask secrets in everything that Python code writes to standard output and error."""
    sys.stdout, sys.stderr = Masking(sys.stdout), Masking(sys.stderr)  # type: ignore[assignment]
