"""Where the parts of a system lie, and the settings that its run was made with.

A trained system is `{d}/{scheme}/seed{n}/`: `model/`, `identifiers/`, `trie.safetensors`, and `retrieval.json` after `retrieve`.
The baseline is `{d}/baseline/`. The data set's folder `{d}` holds what they share: `dataset/`, `embeddings/`, `tower/`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from grace.system.errors import GraceError
from grace.system.files import need, read_json

BASELINE = "baseline"
"""Name of the dual encoder: its folder, its scheme in `retrieval.json`, and the tag of its run."""
DEPTHS = ("model", "seed*/model", "*/seed*/model", "*/*/seed*/model")
"""Where a model folder lies below a system's folder, a scheme's, a data set's and that of all results."""


def system_folder(place: Path | str) -> Path:
    """The folder of the one trained system in `place`, or of the baseline.

    `place` may be that folder, a system's model folder, or a folder above it that holds no other trained system; the baseline
    has to be named itself. Raises `GraceError` where there is none or several.
    """
    place = need(Path(place), "results folder").absolute()
    found = {path.parent for pattern in DEPTHS for path in place.glob(pattern) if path.is_dir()}
    if (place / "model.safetensors").is_file() and place.name == "model":
        found = {place.parent}
    if not found and is_baseline(place):
        found = {place}
    if not found:
        raise GraceError(f"{place} holds no trained model; run snakemake first, or name another folder")
    if len(found) > 1:
        names = ", ".join(map(str, sorted(found)))
        raise GraceError(f"{place} holds several trained models; name one of them: {names}")
    folder = found.pop()
    return folder if (data_folder(folder) / "dataset").exists() else folder.resolve()  # a link to it from elsewhere


def data_folder(folder: Path) -> Path:
    """The folder of the data set that the system in `folder` belongs to."""
    return folder.parent if is_baseline(folder) else folder.parent.parent


def is_baseline(folder: Path) -> bool:
    """Whether `folder` is the dual encoder's."""
    return not (folder / "model").exists() and _summary(folder).get("scheme") == BASELINE


def run_settings(folder: Path) -> dict[str, Any]:
    """The settings (section `retrieve`) that the run in `folder` was made with; empty before `retrieve`."""
    return _summary(folder).get("provenance", {}).get("settings", {})


def _summary(folder: Path) -> dict[str, Any]:
    path = folder / "retrieval.json"
    return read_json(path, "summary of the run") if path.is_file() else {}
