"""What a terminal is shown of text from files."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grace.system.errors import GraceError
from grace.system.printable import BIDIRECTIONAL, escaped, printable


@pytest.mark.parametrize(
    "text", ["می\u200cخواهم", "👩\u200d👧", "12\u202f000 km", "a\u00a0b", "/photos/naïve\u200d.jpg", "e\u0301"]
)
def test_words_emoji_and_paths_stay_whole(text: str) -> None:
    assert printable(text) == text == escaped(text) == str(GraceError(text))


@given(st.text())
def test_nothing_commands_a_terminal_or_turns_text_around(text: str) -> None:
    for shown in (printable(text), escaped(text)):
        assert not any(ord(letter) < 32 or 127 <= ord(letter) < 160 or letter in BIDIRECTIONAL for letter in shown)
        assert len(shown.splitlines()) <= 1
        shown.encode("utf-8")
    if "\x1b" in text:
        assert "\\x1b" in escaped(text)
