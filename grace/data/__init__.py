"""The registry of data sets. Every source ends in the same tables (`grace.data.tables`).

A new data set is one file `grace/data/NAME.py` with a function `NAME(*, output, settings, name, ...)` that ends in
`write_dataset`, and one line here; to be run by the workflow it also has a section in `grace/workflow/config/data.py`, a command in
`grace/cli/data.py` and a rule in `rules/data.smk`. Command: `python -m grace dataset NAME ...`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from grace.system.errors import GraceError, did_you_mean

SOURCES: dict[str, str] = {
    "scenes": "pictures that the project draws itself, with captions",
    "karpathy": "a JSON file in Karpathy's format (Flickr8k, Flickr30k, COCO) and a folder of images",
    "folder": "any folder of images, with captions from a table, from text files beside them, or from a model",
}


def source(name: str) -> Callable[..., None]:
    """Return the function that makes the data set `name`; an unknown name is a `GraceError`."""
    if name not in SOURCES:
        raise GraceError(f"unknown data set source '{name}'{did_you_mean(name, SOURCES)}")
    return getattr(import_module(f"grace.data.{name}"), name)
