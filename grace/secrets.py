"""Keeping tokens out of logs and records.

What an environment variable with TOKEN, SECRET, PASSWORD or API_KEY in its name holds is replaced by `***`, and so is the
password of a URL.
"""

from __future__ import annotations

import os
import re
from typing import Any

_NAME = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY", re.IGNORECASE)
_URL = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s/@:]*:[^\s/@]+@", re.IGNORECASE)
_SHORTEST = 8  # a shorter value, such as "true", stands in ordinary text too


def masked(value: Any) -> Any:
    """`value` (JSON-able, or a text) with every secret replaced."""
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
