"""A user's texts and settings, checked before a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from grace.system.errors import GraceError
from grace.workflow.config import Retrieve, parse


def check_texts(queries: Sequence[str]) -> list[str]:
    """The texts with single spaces; a `GraceError` for one that is not a str, is empty or is not UTF-8."""
    for text in queries:
        if not isinstance(text, str):
            raise GraceError(f"search: the query {text!r} is not a string")
    texts = [" ".join(text.split()) for text in queries]
    if not all(texts):
        raise GraceError("search: a caption is empty; describe what the photo shows")
    if any("\ud800" <= letter <= "\udfff" for text in texts for letter in text):
        raise GraceError("search: a caption is not UTF-8; type it in a terminal that uses UTF-8")
    return texts


def check_top(top: int) -> int:
    """`top`, a number of images; a `GraceError` unless it is a whole number of at least 1."""
    if isinstance(top, bool) or not isinstance(top, int) or top < 1:
        raise GraceError(f"search: top is {top!r}; give a whole number of images, 1 or more")
    return top


def settings_over(run: Retrieve, given: Mapping[str, Any], baseline: bool) -> Retrieve:
    """The settings of a system's run, overridden by `given`; a `GraceError` for one that is unknown or not allowed here."""
    for key, instead in (("depth", "top"), ("device", "grace.open(..., device=...)")):
        if key in given:
            raise GraceError(f"search: {key} is set by {instead} here; remove it from the settings")
    beside = sorted(set(given) - {"batch_size"})
    parse(Retrieve, dict(given), "search")
    if baseline and beside:
        raise GraceError(f"search: the baseline compares embeddings; its only setting is batch_size, not {beside[0]}")
    return parse(Retrieve, {**run.model_dump(), **given}, "search")
