"""Where the parts of a system are, and the settings of its run.

A trained system is `{d}/{scheme}/seed{n}/`: `model/`, `identifiers/`, `trie.safetensors`, and `retrieval.json` after `retrieve`.
The baseline is `{d}/baseline/`. The data set's folder `{d}` contains what they share: `dataset/`, `embeddings/`, `tower/`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from grace.system.errors import GraceError
from grace.system.files import need, read_json

BASELINE = "baseline"
"""Name of the dual encoder: its folder, its scheme in `retrieval.json`, and the tag of its run."""
DEPTHS = ("model", "seed*/model", "*/seed*/model", "*/*/seed*/model")
"""Where a model folder is below a system's folder, a scheme's, a data set's and the results folder."""


def system_folder(place: Path | str) -> Path:
    """The folder of the one trained system in `place`, or of the baseline.

    `place` may be that folder, a system's model folder, or a folder above it that contains no other trained system; the baseline's
    folder must be given itself. Raises `GraceError` if there is none or several.
    """
    place = need(Path(place), "results folder").absolute()
    found = {path.parent for pattern in DEPTHS for path in place.glob(pattern) if path.is_dir()}
    if (place / "model.safetensors").is_file() and place.name == "model":
        found = {place.parent}
    if not found and is_baseline(place):
        found = {place}
    if not found:
        raise GraceError(f"{place} contains no trained model; run snakemake first, or give another folder")
    if len(found) > 1:
        names = ", ".join(map(str, sorted(found)))
        raise GraceError(f"{place} contains several trained models; give one of them: {names}")
    folder = found.pop()
    return folder if (data_folder(folder) / "dataset").exists() else folder.resolve()  # `place` may be a symbolic link


def data_folder(folder: Path) -> Path:
    """The folder of the data set that the system in `folder` belongs to."""
    return folder.parent if is_baseline(folder) else folder.parent.parent


def is_baseline(folder: Path) -> bool:
    """Whether `folder` is the dual encoder's."""
    return not (folder / "model").exists() and _summary(folder).get("scheme") == BASELINE


def run_settings(folder: Path) -> dict[str, Any]:
    """The settings (section `retrieve`) of the run in `folder`; empty before `retrieve`."""
    return _summary(folder).get("provenance", {}).get("settings", {})


def _summary(folder: Path) -> dict[str, Any]:
    path = folder / "retrieval.json"
    return read_json(path, "summary of the run") if path.is_file() else {}
