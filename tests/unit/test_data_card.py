"""The data card: counts, examples, what was left out, and duplicates, against brute force."""

from __future__ import annotations

import base64
import io
import json
import re

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from grace.data.skipped import skipped_table, write_skipped
from grace.report import duplicates, report
from grace.report.data_card import split_rows, word_counts
from grace.report.duplicates import nearest, same_captions
from grace.report.gallery import data_uri
from grace.report.inputs import load_dataset
from grace.system.files import write_json
from grace.workflow.config import Report
from tests.unit.conftest import make_dataset
from tests.unit.photos import picture
from tests.unit.test_report import HOSTILE, IMAGES, Page, make_results


def unit(rows: int, width: int = 6, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("block", [(3, 7), (500, 20_000), (1, 1)])
def test_the_nearest_other_image_as_by_brute_force(monkeypatch, block):
    monkeypatch.setattr(duplicates, "BLOCK", block)
    vectors = unit(60)
    rows, among = np.arange(20), np.arange(10, 60)
    found = nearest(vectors, rows, among)
    matrix = vectors[rows] @ vectors.T
    matrix[:, :10] = -np.inf
    matrix[rows, rows] = -np.inf
    assert found.others.tolist() == matrix.argmax(1).tolist()
    assert np.allclose(found.similarities, matrix.max(1), atol=1e-6)
    assert found.at_least(0.5) == int((matrix.max(1) >= 0.5).sum()) > 0
    similar = [similarity for _, _, similarity in found.closest(5)]
    assert similar == sorted(similar, reverse=True) and len(similar) == 5


def test_a_pair_of_two_test_images_is_named_once():
    vectors = unit(4)
    vectors[1] = vectors[0]
    pairs = nearest(vectors, np.arange(4), np.arange(4)).closest(10)
    assert pairs[0][2] == pytest.approx(1.0) and {pairs[0][0], pairs[0][1]} == {0, 1}
    assert len({frozenset(pair[:2]) for pair in pairs}) == len(pairs)


def test_nothing_to_compare_with():
    assert nearest(unit(3), np.arange(0), np.arange(3)) is None
    assert nearest(unit(3), np.array([1]), np.array([1])) is None
    assert nearest(unit(3), np.array([1]), np.arange(0)) is None


def test_of_many_test_images_as_many_are_drawn(monkeypatch):
    monkeypatch.setattr(duplicates, "SAMPLE", 5)
    found = nearest(unit(50), np.arange(20), np.arange(20, 50))
    assert len(found.rows) == 5 and set(found.rows) < set(range(20))


def test_captions_that_stand_twice():
    rows = [
        ("train", "a", "A dog runs"), ("train", "a", "A cat"), ("val", "b", "one tree"),
        ("test", "c", "a  dog RUNS"), ("test", "c", "x"), ("test", "c", "x"), ("test", "d", "one tree"), ("test", "e", "One tree"),
    ]  # fmt: skip
    captions = pd.DataFrame(rows, columns=["split", "image_id", "text"])
    assert same_captions(captions) == {"across": 3, "within": 2}


def test_counts_and_lengths(tmp_path):
    dataset = load_dataset(make_dataset(tmp_path / "d", train=3, val=0, test=2))
    rows = {row["split"]: row for row in split_rows(dataset)}
    assert rows["train"]["images"] == "3" and rows["train"]["captions"] == "6" and rows["train"]["each"] == "2"
    assert rows["val"]["images"] == "0" and rows["val"]["words"] == "–"
    counts = word_counts(dataset)
    assert "val" not in counts and sum(counts["train"].values()) == 6
    words = [len(text.split()) for text in dataset.captions_of("test")["text"]]
    assert counts["test"] == {number: words.count(number) for number in sorted(set(words))}


@pytest.fixture
def made(tmp_path):
    """Results with an embedding for each image, a train image equal to a test image, and two images left out."""
    arguments = make_results(tmp_path, schemes=("atomic",))
    world = arguments["results"] / "scenes"
    vectors = unit(IMAGES + 1)
    vectors[IMAGES] = vectors[3]
    (world / "embeddings").mkdir()
    np.save(world / "embeddings/image_embeddings.npy", vectors)
    rows = [("x", "gone.jpg", "empty", "the file has no bytes"), ("y", "<b>.jpg", "broken", "cannot be read (cut)")]
    write_skipped(world / "dataset", skipped_table(rows))
    summary = json.loads((world / "dataset/dataset.json").read_text())
    summary |= {"terms": "https://terms.example", "duplicates": {"identical_files": 7, "across_splits": 2, "pairs": []}}
    write_json(world / "dataset/dataset.json", summary)
    return arguments


def test_the_card_is_on_the_page(made):
    report(**made, settings=Report(examples=2))
    text = made["output"].read_text()
    page = Page(text)
    card = text[text.index('<section id="data">') : text.index('<section id="examples">')]
    words = Page(card).text
    assert page.open == []
    for said in (
        "drawn by this project",
        "drawn <here>",
        "https://terms.example",
        "seen in training",
        "Images identical to an earlier one7",
    ):
        assert said in words, said
    assert "Test images nearly identical to an image of train or val1" in words
    assert "2 of 19 images: 1 empty, 1 broken" in words and "<b>.jpg" in words and "cannot be read (cut)" in words
    assert "1.000: test i3, train t" in words
    assert card.count("<figure><img") == 1 + 4 and HOSTILE in words  # one train image, four of test
    assert re.search(r'<svg[^>]*aria-labelledby="words-title', card)


def test_without_embeddings_pictures_and_skipped_table_the_card_says_so(made):
    world = made["results"] / "scenes"
    (world / "embeddings/image_embeddings.npy").unlink()
    (world / "dataset/skipped.parquet").unlink()
    report(**made, settings=Report(examples=0))
    text = made["output"].read_text()
    card = text[text.index('<section id="data">') : text.index('<section id="training">')]
    assert "Near-duplicate images were not searched for" in card and "<img" not in text and "Skipped images" not in card


def test_pictures_follow_the_rules_for_images(tmp_path):
    """Turned upright, transparency white, and no place of the photographer on the page."""
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8825)[1] = "N"
    picture(1, (120, 60)).save(tmp_path / "turned.jpg", exif=exif)
    clear = Image.new("RGBA", (30, 30), (0, 0, 0, 0))
    clear.save(tmp_path / "clear.png")
    shown = {}
    for name in ("turned.jpg", "clear.png"):
        content = base64.b64decode(data_uri(tmp_path / name).partition(",")[2])
        shown[name] = Image.open(io.BytesIO(content))
        assert not shown[name].getexif()
    assert shown["turned.jpg"].size == (60, 120)
    assert np.asarray(shown["clear.png"].convert("RGB")).min() > 250
