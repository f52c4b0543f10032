"""Text from files and from outside on a terminal: what would command it, or turn the text around, is shown and not sent.

Invisible characters that words, emoji and paths are made of (joiners, narrow and no-break blanks) stay.
"""

from __future__ import annotations

import unicodedata

BIDIRECTIONAL = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Unicode's bidirectional controls: they can make a line say another thing than its characters."""


def commands(letter: str) -> bool:
    """Whether a character is a control, half of a pair, a line break or a bidirectional control."""
    return unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") or letter in BIDIRECTIONAL


def printable(text: str) -> str:
    """`text` on one line, with a sign (U+FFFD) in place of every character that commands."""
    return "".join("\N{REPLACEMENT CHARACTER}" if commands(letter) else letter for letter in text)


def escaped(text: str) -> str:
    """`text` on one line, characters that command written as escapes."""
    return "".join(letter.encode("unicode_escape").decode("ascii") if commands(letter) else letter for letter in text)
