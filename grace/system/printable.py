"""Make untrusted text safe for a terminal: control characters and bidirectional controls are shown instead of sent.

Invisible characters that are part of words, emoji and paths (joiners, narrow and no-break spaces) are kept.
"""

from __future__ import annotations

import unicodedata

BIDIRECTIONAL = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Unicode's bidirectional controls: with them a line can look different from its characters."""


def commands(letter: str) -> bool:
    """Whether a character is a control character, a surrogate, a line break or a bidirectional control."""
    return unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") or letter in BIDIRECTIONAL


def printable(text: str) -> str:
    """`text` on one line, with U+FFFD in place of every character for which `commands` is true."""
    return "".join("\N{REPLACEMENT CHARACTER}" if commands(letter) else letter for letter in text)


def escaped(text: str) -> str:
    """`text` on one line, with every character for which `commands` is true written as an escape."""
    return "".join(letter.encode("unicode_escape").decode("ascii") if commands(letter) else letter for letter in text)
