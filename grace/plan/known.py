"""Shapes that follow from a configuration: the language model, the vision tower, the number of images.

The language models of the published OpenFlamingo are built in, so that no hub is needed; for any other, config.json is read
from its folder or fetched. docs/explanation/training.md gives the sources of the shapes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from grace.data.karpathy import parse_karpathy
from grace.model.language_models import read_configuration
from grace.plan.published import LANGUAGE_MODELS, NEOX_WORDS
from grace.system.errors import GraceError
from grace.system.files import read_json
from grace.system.torchvision_shim import import_torchvision
from grace.workflow.config import Config, Flamingo, Tower

# Weights of the packaged backbone without its classifier (verified by a test).
EFFICIENTNET_LITE0 = 4_631_000
# Number of images in Karpathy's files: train with restval, val, test.
KARPATHY = {"flickr8k": (6000, 1000, 1000), "flickr30k": (29_000, 1014, 1000), "coco": (113_287, 5000, 5000)}


@dataclass(frozen=True)
class TowerShape:
    parameters: int  # of the image side
    tokens: int
    width: int  # of a visual token
    embedding: int  # of the joint space


def language_model_config(flamingo: Flamingo) -> dict[str, Any] | None:
    """The configuration of the pretrained language model as plain values; None for one built from scratch."""
    if flamingo.language_model == "scratch":
        return None
    name = flamingo.pretrained.model
    if name in LANGUAGE_MODELS:
        return LANGUAGE_MODELS[name]
    return read_configuration(name)


def words(flamingo: Flamingo) -> int:
    """Size of the vocabulary without identifier tokens; the language model's embedding rows if its tokenizer is unknown."""
    if flamingo.language_model == "scratch":
        return flamingo.scratch.vocabulary + 3
    if flamingo.pretrained.vocabulary:
        return flamingo.pretrained.vocabulary + 3
    if flamingo.pretrained.model in LANGUAGE_MODELS:
        return NEOX_WORDS
    return int(language_model_config(flamingo)["vocab_size"]) + 3


def tower_shape(tower: Tower) -> TowerShape:
    """Shape of the vision tower's image side, from a forward pass on the meta device."""
    if tower.kind == "scratch":
        from grace.towers.dual_encoder import DualEncoder

        s = tower.scratch
        with torch.device("meta"):
            model = DualEncoder(s, 1)
        side = ("patch.", "patch_norm.", "image_")
        count = sum(value.numel() for name, value in model.named_parameters() if name.startswith(side))
        return TowerShape(count, (s.image_size // s.patch_size) ** 2, s.width, s.embedding_dim)
    if tower.kind == "efficientnet_lite0":
        s = tower.efficientnet_lite0
        return TowerShape(EFFICIENTNET_LITE0, s.grid**2, s.embedding_dim, s.embedding_dim)
    import_torchvision()
    import open_clip

    name = tower.open_clip.model
    if name.endswith(".json"):
        open_clip.add_model_config(Path(name))
        name = Path(name).stem
    if ":" not in name and name not in open_clip.list_models():
        raise GraceError(f"open_clip has no model {name!r}; see tower.open_clip.model")
    with torch.device("meta"), _without_warnings():  # random weights are intended here
        visual = open_clip.create_model(name, pretrained=None, load_weights=False, device="meta").visual
        if not hasattr(visual, "output_tokens"):
            raise GraceError(f"open_clip model {name!r} has no patch tokens; choose a ViT")
        visual.output_tokens = True
        size = visual.image_size if isinstance(visual.image_size, tuple) else (visual.image_size,) * 2
        pooled, tokens = visual.eval()(torch.zeros(1, 3, *size))
    count = sum(value.numel() for value in visual.parameters())
    return TowerShape(count, int(tokens.shape[1]), int(tokens.shape[2]), int(pooled.shape[1]))


@contextmanager
def _without_warnings() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def images(config: Config) -> tuple[int, int, int] | None:
    """Number of train, val and test images; None if it is not known without the data."""
    if config.dataset.source == "scenes":
        s = config.dataset.scenes
        return s.train_images, s.val_images, s.test_images
    made = Path(config.output) / config.dataset.name / "dataset" / "images.parquet"
    if made.exists():
        import pandas as pd

        splits = pd.read_parquet(made, columns=["split"])["split"].value_counts()
        return tuple(int(splits.get(split, 0)) for split in ("train", "val", "test"))
    if config.dataset.source == "karpathy":
        given = config.dataset.karpathy
        counts = KARPATHY.get(given.download)
        if given.json_file and Path(given.json_file).exists():
            images, _ = parse_karpathy(
                read_json(given.json_file, "Karpathy JSON file"), f"Karpathy JSON file {given.json_file}", given.restval
            )
            counts = tuple(int((images["split"] == split).sum()) for split in ("train", "val", "test"))
        if counts is not None:
            caps = (given.max_train, given.max_val, given.max_test)
            return tuple(min(count, cap) if cap else count for count, cap in zip(counts, caps, strict=True))
    return None
