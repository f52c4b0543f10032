"""Open a system: from its folder to a `System`.

Reads the system's own folder (model, identifiers, tree, the settings of its run) and what all systems of its data set
share: `dataset/`, `embeddings/`, `tower/`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from grace.data.tables import load_dataset
from grace.retrieval.folders import data_folder, is_baseline, run_settings, system_folder
from grace.retrieval.system import System
from grace.system.errors import GraceError
from grace.workflow.config import Retrieve, parse

if TYPE_CHECKING:
    from grace.retrieval.nearest import NearestSearcher
    from grace.retrieval.searcher import Searcher

DEVICES = ("auto", "cpu", "cuda")


def open_system(folder: Path | str, *, gallery_only: bool = False, device: str = "auto") -> System:
    """Open a trained system; see `grace.open`."""
    if device not in DEVICES:
        raise GraceError(f"device is {device!r}; it is {', '.join(DEVICES[:-1])} or {DEVICES[-1]}")
    folder = system_folder(folder)
    data = data_folder(folder)
    tables = load_dataset(data / "dataset")
    searcher: Searcher | NearestSearcher
    if is_baseline(folder):
        from grace.retrieval.nearest import open_nearest

        images = tables.gallery if gallery_only else tables.images
        searcher = open_nearest(tables, images, data / "embeddings", data / "tower")
    else:
        from grace.retrieval.searcher import open_searcher

        own = (folder / "identifiers", folder / "trie.safetensors", folder / "model")
        searcher = open_searcher(tables, data / "embeddings", *own, device)
        searcher = searcher if gallery_only else searcher.among_all()
    settings = parse(Retrieve, run_settings(folder), f"settings of {folder / 'retrieval.json'}")
    return System(folder, tables, searcher, settings)
