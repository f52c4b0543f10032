"""The tower kind `efficientnet_lite0`: pretrained on photographs, installed from the package index, no hub needed.

EfficientNet-Lite0 (ImageNet) and MiniLM (sentences) stay frozen; two linear heads into one embedding space are trained with
a symmetric InfoNCE loss on the train split (`grace.towers.heads`). An image's embedding is the head applied to the mean of
the 7 x 7 feature map; its visual tokens are the head applied to the cells of that map, pooled to `grid` x `grid`.

The backbones run once over the data set, on all CPU cores, before the heads are trained. Their features are kept in
`{output}_state` until the tower is complete, so that a killed run resumes from there. Reads the dataset folder; writes
`model.safetensors` (the heads), `config.json`, `metrics.jsonl`, and the features, so that no later stage runs a backbone on
the same data again: `images.npy`, `captions.npy` (float16) and `features.json`, which lists what they belong to.

    python -m grace tower --dataset DIR --output results/flickr8k/tower --settings '{"kind": "efficientnet_lite0"}'
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from grace.data.images import read_ahead
from grace.data.tables import DatasetTables, load_dataset
from grace.system.errors import GraceError
from grace.system.files import check_output_folder, read_array, read_json, replacing_folder, write_json
from grace.system.progress import say
from grace.system.weights import load_weights, save_weights, unique_tensors
from grace.towers import backbones
from grace.towers.feature_cache import FeatureCache
from grace.towers.heads import Heads, train_heads
from grace.workflow.config import EfficientNetLite0, Tower, parse

IMAGES_AT_ONCE, CAPTIONS_AT_ONCE = 64, 1024  # how many to process before saving the features


class EfficientNetLite0Tower:
    """The tower that `open_tower` returns. Backbones are loaded only when needed."""

    def __init__(self, heads: Heads, settings: EfficientNetLite0, folder: Path) -> None:
        self.heads, self.settings, self.seed, self.folder = heads.eval(), settings, settings.seed, folder
        self.temperature = math.exp(-min(heads.log_scale.item(), math.log(100)))
        self._image_backbone: backbones.ImageBackbone | None = None
        self._text_backbone: backbones.TextBackbone | None = None
        self._known: dict[str, int] | None = None

    @property
    def model(self) -> Heads:
        """The trained part; the backbones come from pinned packages."""
        return self.heads

    def encode_images(self, images: list[Image.Image]) -> tuple[Tensor, Tensor]:
        self._image_backbone = self._image_backbone or backbones.ImageBackbone(self.settings.grid)
        return self._of_features(self._image_backbone.features(images))

    def encode_text(self, texts: list[str]) -> Tensor:
        if self._known is None:
            listed = read_json(self.folder / "features.json", "list of the features")["captions"]
            self._known = {text: row for row, text in enumerate(listed)}
        features = torch.empty(len(texts), backbones.TEXT_FEATURES)
        new = [place for place, text in enumerate(texts) if text not in self._known]
        old = [place for place, text in enumerate(texts) if text in self._known]
        if old:
            kept = read_array(self.folder / "captions.npy", "caption features of the tower")
            features[old] = torch.from_numpy(kept[[self._known[texts[place]] for place in old]]).float()
        if new:
            self._text_backbone = self._text_backbone or backbones.TextBackbone()
            features[new] = self._text_backbone.features([texts[place] for place in new]).float()
        with torch.inference_mode():
            return self.heads.texts(features)

    def known_images(self, tables: DatasetTables) -> Callable[[slice], tuple[Tensor, Tensor]] | None:
        """`encode_images` by row, without the backbone, for the data set the tower was trained on; None for any other."""
        listed = read_json(self.folder / "features.json", "list of the features")["images"]
        if listed != _images_key(tables, self.settings):
            return None
        features = read_array(self.folder / "images.npy", "image features of the tower")
        return lambda rows: self._of_features(torch.from_numpy(features[rows].copy()))

    @torch.inference_mode()
    def _of_features(self, features_BTF: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings [B, D] and visual tokens [B, T - 1, D] from backbone features (the mean, then the cells)."""
        features_BTF = features_BTF.float()
        return self.heads.images(features_BTF[:, 0]), self.heads.project_images(features_BTF[:, 1:])


def make(*, dataset: Path, output: Path, settings: Tower) -> None:
    """Run the backbones over the data set, train the heads, and write the tower's folder."""
    s = settings.efficientnet_lite0
    check_output_folder(output, "tower")
    tables = load_dataset(dataset)
    say(
        f"{len(tables.images):,} images, {len(tables.captions_of('train')):,} train captions; {s.epochs} epochs of the heads"
    )
    state = output.with_name(f"{output.name}_state")
    images, captions = _image_features(tables, s, state / "images"), _caption_features(tables, state / "captions")
    train = tables.images_of("train").index.to_numpy()
    place_of = {image: place for place, image in enumerate(tables.images["image_id"].iloc[train])}
    image_of = tables.captions_of("train")["image_id"].map(place_of).to_numpy()
    if len(train) < 2:
        raise GraceError(f"data set {dataset} has {len(train)} train images; the heads need at least two")
    with replacing_folder(output, "tower") as folder:
        heads = train_heads(
            torch.from_numpy(images.read()[train, 0]).float(), torch.from_numpy(captions.read().copy()).float(), image_of,
            s, folder / "metrics.jsonl",
        )  # fmt: skip
        save_weights(folder / "model.safetensors", unique_tensors(heads))
        write_json(folder / "config.json", {"kind": "efficientnet_lite0", "settings": s.model_dump()})
        texts = tables.captions_of("train")["text"].tolist()
        write_json(folder / "features.json", {"images": _images_key(tables, s), "captions": texts})
        shutil.move(images.path, folder / "images.npy")  # not copied: they may be gigabytes
        shutil.move(captions.path, folder / "captions.npy")
    shutil.rmtree(state)


def open_folder(folder: Path) -> EfficientNetLite0Tower:
    config = read_json(folder / "config.json", "tower configuration")
    settings = parse(EfficientNetLite0, config["settings"], f"{folder}/config.json")
    heads = Heads(backbones.IMAGE_FEATURES, backbones.TEXT_FEATURES, settings.embedding_dim)
    load_weights(folder / "model.safetensors", heads)
    return EfficientNetLite0Tower(heads, settings, folder)


def _images_key(tables: DatasetTables, settings: EfficientNetLite0) -> dict:
    """Everything the image features depend on, as plain values."""
    return {
        "images_dir": str(tables.images_dir.resolve()),
        "files": tables.stamps(),
        "grid": settings.grid,
    }


def _image_features(tables: DatasetTables, settings: EfficientNetLite0, folder: Path) -> FeatureCache:
    """Features of all images of the data set, by row."""
    shape = (len(tables.images), 1 + settings.grid**2, backbones.IMAGE_FEATURES)
    cache = FeatureCache(folder, _images_key(tables, settings), shape)
    if cache.done < shape[0]:
        backbone = backbones.ImageBackbone(settings.grid)
        paths = [tables.image_path(file) for file in tables.images["file"][cache.done :]]
        cache.fill((backbone.features(batch) for batch in _batches(read_ahead(paths), IMAGES_AT_ONCE)), "images")
    return cache


def _caption_features(tables: DatasetTables, folder: Path) -> FeatureCache:
    """Features of the captions of the train split, in order. No other captions are read here."""
    texts = tables.captions_of("train")["text"].tolist()
    cache = FeatureCache(folder, texts, (len(texts), backbones.TEXT_FEATURES))
    if cache.done < len(texts):
        backbone = backbones.TextBackbone()
        cache.fill((backbone.features(batch) for batch in _batches(texts[cache.done :], CAPTIONS_AT_ONCE)), "captions")
    return cache


def _batches(items: Iterator | list, size: int) -> Iterator[list]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch
