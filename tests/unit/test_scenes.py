"""The built-in data set: unique, deterministic, and captions from which an oracle finds the picture."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from grace.data.scene_captions import COLOURS, SHAPES, captions
from grace.data.scenes import draw_scenes, render, scenes
from grace.data.tables import load_dataset
from grace.workflow.config import Scenes

TEST = 500


@pytest.fixture(scope="module")
def drawn():
    return draw_scenes(2600, seed=0)[-TEST:]


@pytest.fixture(scope="module")
def written(drawn):
    return [captions(scene, 5, np.random.default_rng([0, 1, i])) for i, scene in enumerate(drawn)]


def test_scenes_are_unique(drawn) -> None:
    assert len({(scene.background, frozenset(scene.objects)) for scene in drawn}) == TEST


def test_an_oracle_of_the_stated_facts_finds_the_scene(drawn, written) -> None:
    hits = [
        1 / sum(facts.hold_in(scene) for scene in drawn) for scene_captions in written for _, facts in scene_captions
    ]  # a tie counts as the chance of guessing it
    assert len(hits) == 5 * TEST
    assert np.mean(hits) >= 0.95


def test_captions_are_true_different_and_leave_something_out(drawn, written) -> None:
    for scene, pairs in zip(drawn, written, strict=True):
        assert len({text for text, _ in pairs}) == 5
        for text, facts in pairs:
            assert facts.hold_in(scene)
            for stated in facts.objects:
                for key in ("shape", "colour"):
                    assert key not in stated or stated[key] in text
            whole = len(facts.objects) == len(scene.objects) and all(len(stated) == 4 for stated in facts.objects)
            assert not (whole and facts.background), text


def test_the_oracle_can_fail(drawn, written) -> None:
    """Facts of another scene do not hold: the oracle does not say yes to everything."""
    wrong = [facts.hold_in(drawn[(i + 1) % TEST]) for i, pairs in enumerate(written) for _, facts in pairs]
    assert np.mean(wrong) < 0.02


def test_captions_are_english(written) -> None:
    for pairs in written:
        for text, _ in pairs:
            words = text.replace(",", "").replace(":", "").split()
            for article, word in itertools.pairwise(words):
                if article in ("a", "an"):
                    assert (article == "an") == (word[0] in "aeiou"), text
            assert "  " not in text and " ," not in text and text == text.strip()


def test_pictures_show_what_is_said() -> None:
    """The colour of every object is on the picture, at its place."""
    scene = draw_scenes(1, seed=3)[0]
    pixels = np.asarray(render(scene, 96, np.random.default_rng(0))).astype(int)
    for thing in scene.objects:
        row, column = thing.place
        cell = pixels[row * 32 : row * 32 + 32, column * 32 : column * 32 + 32].reshape(-1, 3)
        assert (np.abs(cell - COLOURS[thing.colour]).max(axis=1) < 15).sum() > 10


def test_every_shape_looks_different() -> None:
    from dataclasses import replace

    scene = draw_scenes(1, seed=0)[0]
    pictures = [
        render(
            replace(scene, objects=(replace(scene.objects[0], shape=shape),)), 96, np.random.default_rng(0)
        ).tobytes()
        for shape in SHAPES
    ]
    assert len(set(pictures)) == len(SHAPES)


def test_same_seed_same_files_other_seed_others(tmp_path) -> None:
    settings = Scenes(train_images=6, val_images=2, test_images=4)
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        scenes(output=tmp_path / name, settings=settings.model_copy(update={"seed": seed}))
    content = {
        name: {path.name: path.read_bytes() for path in (tmp_path / name).rglob("*.png")} for name in ("a", "b", "c")
    }
    assert content["a"] == content["b"] and len(content["a"]) == 12
    assert content["a"] != content["c"]
    tables = load_dataset(tmp_path / "a")
    assert tables.captions.equals(load_dataset(tmp_path / "b").captions)
    assert tables.images["split"].value_counts().to_dict() == {"train": 6, "test": 4, "val": 2}
    assert len(tables.captions_of("test")) == 20
