"""Vision towers by name: a dual encoder trained from scratch, heads over packaged backbones, and anything of open_clip.

A tower folder holds `config.json` with its kind; a new kind is one module and one line in `KINDS`. Every tower answers
`encode_images(list of PIL images) -> (embeddings f32 [B, D] L2-normalised, visual tokens f32 [B, T, C])` and
`encode_text(list of str) -> f32 [B, D] L2-normalised`. A tower that keeps what it computed of a data set's images may have
`known_images(tables)`: a function of a slice of their rows that gives what `encode_images` gives, or None.

    python -m grace tower --dataset results/scenes/dataset --output results/scenes/tower
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from grace.records.stage import stage
from grace.system.errors import GraceError, did_you_mean
from grace.system.files import need, read_json
from grace.workflow.config import Tower

KINDS = {
    "scratch": "grace.towers.scratch",
    "efficientnet_lite0": "grace.towers.efficientnet_lite0",
    "open_clip": "grace.towers.openclip",
}


@stage("tower", settings=lambda given: given.model_dump(mode="json", include={"kind", given.kind}), photos=True)
def tower(*, dataset: Path, output: Path, settings: Tower) -> None:
    """The stage `tower`: train or fetch the tower and write its folder."""
    import_module(KINDS[settings.kind]).make(dataset=dataset, output=output, settings=settings)


def open_tower(folder: Path) -> Any:
    """The tower of a folder that the stage `tower` wrote."""
    need(folder, "tower folder")
    kind = read_json(folder / "config.json", "tower configuration").get("kind")
    if kind not in KINDS:
        raise GraceError(f"{folder}/config.json names the tower kind {kind!r}" + did_you_mean(str(kind), KINDS))
    return import_module(KINDS[kind]).open_folder(folder)
