"""The registry of data sets. Every source writes the same tables (`grace.data.tables`).

To add a data set, write `grace/data/NAME.py` with a function `NAME(*, output, settings, name, ...)` that calls
`write_dataset`, and add a line here. For the workflow, also add a section to `grace/workflow/config/data.py`, a command
to `grace/cli/data.py` and, if it reads the user's files, these to the inputs of the rule in `rules/data.smk`.

    python -m grace dataset NAME ... --output DIR
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from grace.system.errors import GraceError, did_you_mean

SOURCES: dict[str, str] = {
    "scenes": "synthetic pictures drawn by the project, with captions",
    "karpathy": "a JSON file in Karpathy's format (Flickr8k, Flickr30k, COCO) and a folder of images",
    "folder": "any folder of images, with captions from a table, from text files beside them, or from a model",
}


def source(name: str) -> Callable[..., None]:
    """Return the function that makes the data set `name`; raises `GraceError` for an unknown name."""
    if name not in SOURCES:
        raise GraceError(f"unknown data set source '{name}'{did_you_mean(name, SOURCES)}")
    return getattr(import_module(f"grace.data.{name}"), name)
