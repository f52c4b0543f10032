"""Readable errors for invalid configuration values: the key, the value, and what to write instead."""

from __future__ import annotations

import difflib
import re
from typing import Any

from pydantic import BaseModel

from grace.system.errors import did_you_mean


def said(model: type[BaseModel], problem: Any) -> str:
    """One pydantic error as one line."""
    loc, kind, value = problem["loc"], problem["type"], problem["input"]
    place = ".".join(map(str, loc))
    if kind == "extra_forbidden":
        return f"unknown key '{place}'{_unknown(model, loc)}"
    message = problem["msg"].removeprefix("Value error, ")
    if not place or kind == "value_error":
        return f"{place}: {message}" if place else message
    return f"{place}: {message} (got {value!r}){_hint(kind, value, problem)}"


def _unknown(model: type[BaseModel], loc: tuple) -> str:
    section: Any = model
    for part in loc[:-1]:
        section = section.model_fields[part].annotation
    name = str(loc[-1])
    if (len(loc) > 2 and loc[-3] == "train") or (len(loc) == 3 and loc[0] == "train"):
        above: Any = model.model_fields["train"].annotation if "train" in model.model_fields else None
        if above is not None and name in above.model_fields:
            return f"; it is a key of train and applies to all schemes: write train.{name}"
    return did_you_mean(name, section.model_fields)


def _hint(kind: str, value: Any, problem: Any) -> str:
    """What to write instead, if it can be guessed."""
    if kind in ("tuple_type", "list_type") and isinstance(value, str | int | float):
        return f"; expected a list, write [{value}]"
    if kind in ("model_type", "model_attributes_type", "dict_type") and value is None:
        return "; the section is empty: write its keys below it, or leave it out"
    if isinstance(value, bool) and kind in ("literal_error", "string_type"):
        written = "on, yes or true" if value else "off, no or false"
        return f"; YAML reads {written} as {str(value).lower()}: put the word in quotes if you mean the word"
    if isinstance(value, str) and kind.endswith("_parsing") and re.fullmatch(r"\s*[-+]?\d+,\d+\s*", value):
        return f"; write a point, not a comma: {value.strip().replace(',', '.')}"
    if kind == "literal_error" and isinstance(value, str):
        known = re.findall(r"'([^']*)'", problem["ctx"]["expected"])
        close = difflib.get_close_matches(value, known, n=1, cutoff=0.5)
        return f"; did you mean '{close[0]}'?" if close else ""
    return ""
