"""The stage `encode`: the same arrays whether it runs through, is ended half-way, or is begun with other inputs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from grace.data.images import read_image
from grace.data.tables import load_dataset
from grace.system import files
from grace.system.errors import GraceError
from grace.system.files import write_json
from grace.towers import embeddings as stage
from grace.towers.embeddings import encode, load_embeddings
from grace.workflow.config import Tower
from tests.unit.conftest import make_dataset
from tests.unit.photos import picture

BATCH = 4


class MeanColours:
    """A tower that knows colours only: the mean of an image and those of its quarters. It dies after `life` images."""

    def __init__(self, life: int = 10**9) -> None:
        self.life, self.seen, self.model = life, 0, torch.nn.Linear(1, 1)

    def encode_images(self, images):
        self.seen += len(images)
        if self.seen > self.life:
            raise KeyboardInterrupt
        small = [torch.from_numpy(np.asarray(image.resize((2, 2))).astype(np.float32)) / 255 for image in images]
        tokens = torch.stack([pixels.reshape(4, 3) for pixels in small])
        return torch.nn.functional.normalize(tokens.mean(1), dim=-1), tokens


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A data set of 30 pictures, a tower folder, and a function that encodes with a tower of some length of life."""
    folder = make_dataset(tmp_path / "dataset", train=18, val=4, test=8)
    (folder / "images").mkdir()
    for row in range(30):
        picture(row).save(folder / f"images/{row}.png")
    (tmp_path / "tower").mkdir()
    write_json(tmp_path / "tower/config.json", {"kind": "colours"})
    monkeypatch.setattr(stage, "SAVE_EVERY", 2)

    def run(life: int = 10**9, output: str = "embeddings", **settings) -> MeanColours:
        tower = MeanColours(life)
        monkeypatch.setattr(stage, "open_tower", lambda folder: tower)
        given = Tower(**{"encode_batch": BATCH, **settings})
        encode(dataset=folder, tower=tmp_path / "tower", output=tmp_path / output, settings=given)
        return tower

    run.folder = tmp_path
    return run


def arrays(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in (*stage.ARRAYS, "pad_tokens.npy")]


def test_every_row_is_its_image(world):
    world()
    tables = load_dataset(world.folder / "dataset")
    found = load_embeddings(world.folder / "embeddings", 30)
    for row, file in enumerate(tables.images["file"]):
        vector, tokens = MeanColours().encode_images([read_image(tables.image_path(file))])
        assert np.array_equal(found.vectors[row], vector[0].numpy())
        assert np.array_equal(found.tokens[row], tokens[0].half().numpy())
    assert json.loads((world.folder / "embeddings/encode.json").read_text())["visual_tokens"] == [4, 3]
    assert not (world.folder / "embeddings_state").exists()


@pytest.mark.parametrize("life", [0, 7, 15, 29])
def test_an_ended_run_is_gone_on_with(world, life):
    world(output="whole")
    with pytest.raises(KeyboardInterrupt):
        world(life=life)
    assert not (world.folder / "embeddings").exists()
    safe = max(0, life - 1) // (2 * BATCH) * 2 * BATCH  # SAVE_EVERY is 2; the pad image is one of `life`
    assert world().seen == 1 + 30 - safe
    assert arrays(world.folder / "embeddings") == arrays(world.folder / "whole")
    assert not (world.folder / "embeddings_state").exists()


@pytest.mark.parametrize("changed", ["tower", "settings", "images", "photo", "arrays"])
def test_other_inputs_begin_anew(world, changed):
    with pytest.raises(KeyboardInterrupt):
        world(life=20)
    settings = {}
    if changed == "tower":
        write_json(world.folder / "tower/config.json", {"kind": "other colours"})
    elif changed == "settings":
        settings["encode_batch"] = 2 * BATCH
    elif changed == "photo":  # another one under its name
        picture(31).save(world.folder / "dataset/images/3.png")
    elif changed == "images":
        make_dataset(world.folder / "dataset", train=17, val=4, test=8)
    else:
        (world.folder / "embeddings_state/visual_tokens.npy").unlink()
    assert world(**settings).seen == 1 + (29 if changed == "images" else 30)


def test_a_full_disk_is_refused_before_the_first_image(world, monkeypatch):
    usage = files.shutil.disk_usage(world.folder)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda path: usage._replace(free=100))
    with pytest.raises(GraceError, match=r"encode needs .* MB on the disk of"):
        world()
    assert not (world.folder / "embeddings").exists()


def test_a_foreign_folder_is_refused_before_the_first_image(world):
    (world.folder / "embeddings").mkdir()
    (world.folder / "embeddings/mine.txt").write_text("mine")
    with pytest.raises(GraceError, match="not written by this command"):
        world()
    assert not (world.folder / "embeddings_state").exists()


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf"), 65520.0, -1e5])
@pytest.mark.parametrize("array", [0, 1])
@pytest.mark.parametrize("image", ["the pad image", "17.png"])
def test_what_cannot_be_stored_is_told_with_its_image(world, monkeypatch, number, array, image):
    """Visual tokens are float16, whose largest number is 65504; embeddings float32 of length 1."""
    plain, rows = MeanColours.encode_images, -1

    def encode_images(self, images):
        nonlocal rows
        found = plain(self, images)
        for row in range(len(images)):
            if rows + row == (-1 if image == "the pad image" else 17):
                found[array][row].view(-1)[1] = number
        rows += len(images)
        return found

    monkeypatch.setattr(MeanColours, "encode_images", encode_images)
    if array == 0 and np.isfinite(number):
        world()  # as large as that, an embedding of float32 is only not normalised
        return
    said = "of up to .* for {}; .* float16" if np.isfinite(number) else "for {};"
    with pytest.raises(GraceError, match=said.format(image)):
        world()
    assert not (world.folder / "embeddings").exists()


def test_the_largest_tokens_that_can_be_stored_are(world, monkeypatch):
    plain = MeanColours.encode_images
    monkeypatch.setattr(
        MeanColours,
        "encode_images",
        lambda self, images: (plain(self, images)[0], torch.full((len(images), 4, 3), -65504.0)),
    )
    world()
    assert (load_embeddings(world.folder / "embeddings", 30).tokens == -65504).all()


def test_a_state_of_an_earlier_version_of_the_stage_begins_anew(world, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        world(life=20)
    monkeypatch.setitem(stage.STAGES, "encode", stage.STAGES["encode"] + 1)
    assert world().seen == 1 + 30
