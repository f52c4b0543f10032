"""What a person asks: texts and settings, checked before anything is searched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from grace.system.errors import GraceError
from grace.workflow.config import Retrieve, parse


def check_texts(queries: Sequence[str]) -> list[str]:
    """The texts with white space as single blanks; a `GraceError` for one that is not a str, is empty or is not UTF-8."""
    for text in queries:
        if not isinstance(text, str):
            raise GraceError(f"search: the query {text!r} is not a text")
    texts = [" ".join(text.split()) for text in queries]
    if not all(texts):
        raise GraceError("search: a caption is empty; say what is to be seen on the photo")
    if any("\ud800" <= letter <= "\udfff" for text in texts for letter in text):
        raise GraceError("search: a caption is no UTF-8; type it in a terminal that writes UTF-8")
    return texts


def check_top(top: int) -> int:
    """`top`, a number of images; a `GraceError` for anything but a whole number from 1."""
    if isinstance(top, bool) or not isinstance(top, int) or top < 1:
        raise GraceError(f"search: top is {top!r}; give a whole number of images, 1 or more")
    return top


def settings_over(run: Retrieve, given: Mapping[str, Any], baseline: bool) -> Retrieve:
    """The settings of a system's run with those `given` over them; a `GraceError` for one that is unknown or has no place here."""
    for key, instead in (("depth", "top"), ("device", "grace.open(..., device=...)")):
        if key in given:
            raise GraceError(f"search: {key} is given by {instead} here; leave it out of the settings")
    beside = sorted(set(given) - {"batch_size"})
    parse(Retrieve, dict(given), "search")
    if baseline and beside:
        raise GraceError(
            f"search: the baseline compares embeddings and has the setting batch_size alone, not {beside[0]}"
        )
    return parse(Retrieve, {**run.model_dump(), **given}, "search")
