"""A trained system opened in Python: tables, pair scores, identifiers, prefixes and runs, against slow oracles."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import grace
from grace.identifiers.base import load_identifiers
from grace.retrieval.runs import read_run
from grace.retrieval.system import COLUMNS, System

SCHEMES = ["atomic", "structured", "numeric", "semantic"]
QUERIES = ["a red circle", "a small star above a blue square"]


@pytest.fixture(scope="module")
def systems(tiny_results: Path) -> dict[str, System]:
    scenes = tiny_results / "results" / "scenes"
    opened = {scheme: grace.open(scenes / scheme / "seed0") for scheme in SCHEMES}
    return {**opened, "baseline": grace.open(scenes / "baseline")}


def identifiers_of(system: System) -> pd.DataFrame:
    table = load_identifiers(system.folder / "identifiers").table
    return table.assign(tokens=table["tokens"].map(lambda tokens: tokens.tolist()))


@pytest.mark.parametrize("name", [*SCHEMES, "baseline"])
def test_a_table_of_what_was_found(systems, name: str) -> None:
    system = systems[name]
    found = system.search(QUERIES, top=3)
    assert list(found.columns) == COLUMNS
    assert found["query"].tolist() == [query for query in QUERIES for _ in range(3)]
    assert found["rank"].tolist() == [1, 2, 3] * 2
    assert all(Path(file).is_file() for file in found["file"])
    files = system.images.set_index("image_id")["file"]
    assert found["file"].tolist() == files[found["image_id"]].tolist()
    for _, own in found.groupby("query"):
        assert own["score"].is_monotonic_decreasing and own["image_id"].is_unique
    if name == "baseline":
        assert found["probability"].isna().all() and found["proven"].tolist() == [None] * 6
        assert found["score"].between(-1, 1).all()
    else:
        assert found["probability"].tolist() == [math.exp(score) for score in found["score"]]
        assert found["proven"].dtype == bool


@pytest.mark.parametrize("name", [*SCHEMES, "baseline"])
def test_the_score_of_a_pair_is_that_of_the_search(systems, name: str) -> None:
    """Every image of the whole ranking, wherever it stands."""
    system = systems[name]
    exact = {} if name in ("atomic", "baseline") else {"search": "exact"}
    found = system.search(QUERIES[0], top=len(system.images), **exact)
    assert sorted(found["image_id"]) == sorted(system.images["image_id"])
    scores = [system.score(QUERIES[0], image) for image in found["image_id"]]
    assert scores == pytest.approx(found["score"].tolist(), abs=1e-3)
    assert found["score"].nunique() > 5, "or any pair would do"


@pytest.mark.parametrize(
    "settings", [{"normalisation": "children"}, {"normalisation": "level"}, {"merge": "logsumexp"}]
)
def test_the_score_of_a_pair_follows_the_settings(systems, settings: dict[str, str]) -> None:
    system = systems["semantic"]
    found = system.search(QUERIES[1], top=len(system.images), beams=200, **settings)
    scores = [system.score(QUERIES[1], image, **settings) for image in found["image_id"]]
    assert scores == pytest.approx(found["score"].tolist(), abs=1e-3)
    plain = [system.score(QUERIES[1], image) for image in found["image_id"]]
    assert scores != pytest.approx(plain, abs=1e-2)


def test_what_the_probabilities_add_up_to(systems) -> None:
    """All classes: 1. The identifiers that are searched, renormalised over them: 1 and each is one image's. All sequences: less."""

    def total(name: str, **settings: str) -> float:
        system = systems[name]
        return float(system.search(QUERIES[0], top=len(system.images), **settings)["probability"].sum())

    assert total("atomic") == pytest.approx(1, abs=1e-4)
    assert total("structured", search="exact", normalisation="children") == pytest.approx(1, abs=1e-4)
    assert total("structured", search="exact") < 0.9


def test_what_is_proven_is_what_the_search_certifies(systems) -> None:
    system = systems["structured"]
    found = system.ask({"q": QUERIES[0]}, 10, beams=1, leaves_at_once=0)
    table = system.search(QUERIES[0], 10, beams=1, leaves_at_once=0)
    assert table["proven"].tolist() == [rank <= found.certified["q"] for rank in table["rank"]]
    exact = system.search(QUERIES[0], 10, search="exact")
    assert exact["proven"].all()
    proven = int(table["proven"].sum())
    assert table["image_id"].tolist()[:proven] == exact["image_id"].tolist()[:proven]


@pytest.mark.parametrize("name", ["atomic/seed0", "structured/seed0", "numeric/seed0", "semantic/seed0", "baseline"])
def test_the_run_of_the_gallery_is_that_of_the_workflow(tiny_results: Path, tmp_path: Path, name: str) -> None:
    """The test captions, in order: run.trec to the byte."""
    folder = tiny_results / "results" / "scenes" / name
    system = grace.open(folder, gallery_only=True)
    captions = system.captions[system.captions["split"] == "test"]
    queries = dict(zip(captions["caption_id"], captions["text"], strict=True))
    system.run(queries, tmp_path / "new" / "mine.trec", top=10)
    assert (tmp_path / "new" / "mine.trec").read_bytes() == (folder / "run.trec").read_bytes()
    system.run({"other": "a star"}, tmp_path / "new" / "mine.trec", top=2)
    assert read_run(tmp_path / "new" / "mine.trec")["query_id"].tolist() == ["other"] * 2


def test_which_images_are_searched(systems, tiny_results: Path) -> None:
    assert systems["atomic"].images["split"].value_counts().to_dict() == {"train": 24, "test": 14}
    assert systems["baseline"].images["split"].value_counts().to_dict() == {"train": 24, "test": 14, "val": 2}
    for name in ("atomic", "baseline"):
        gallery = grace.open(tiny_results / "results/scenes" / name, gallery_only=True)
        assert set(gallery.images["split"]) == {"test"} and len(gallery.images) == 14
        assert len(gallery.search("a star", top=99)) == 14
        assert repr(gallery) == f"<grace.System {name}, seed 0: 14 images>"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_identifiers_of_an_image_are_those_of_the_table(systems, scheme: str) -> None:
    system, table = systems[scheme], identifiers_of(systems[scheme])
    for image in system.images["image_id"]:
        own = table[table["image_id"] == image]
        assert system.identifiers(image).to_dict("list") == own[["text", "tokens"]].to_dict("list")


@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_lies_below_a_prefix_is_what_begins_with_it(systems, scheme: str) -> None:
    system, table = systems[scheme], identifiers_of(systems[scheme])
    pairs = list(zip(table["image_id"], map(tuple, table["tokens"]), strict=True))
    rng = np.random.default_rng(0)
    for row in rng.integers(0, len(pairs), size=20):
        for length in (0, 1, 2, len(pairs[row][1])):
            prefix = list(pairs[row][1][:length])
            found = system.below(prefix)
            want = sorted(pair for pair in pairs if list(pair[1][: len(prefix)]) == prefix)
            assert sorted(zip(found["image_id"], map(tuple, found["tokens"]), strict=True)) == want
    texts = dict(zip(pairs, table["text"], strict=True))
    everything = system.below("")
    assert [
        texts[image, tuple(tokens)] for image, tokens in zip(everything["image_id"], everything["tokens"], strict=True)
    ] == (everything["text"].tolist())
    for image, text in zip(everything["image_id"], everything["text"], strict=True):
        assert image in system.below(text)["image_id"].tolist()


def test_a_picture_of_a_table(systems) -> None:
    system = systems["atomic"]
    found = system.search(["a star", "a star"], top=4)  # asked twice, drawn twice
    assert system.draw(found).size == (4 * 208 + 8, 2 * 260 + 8)
    assert system.draw(found[:3]).size == (3 * 208 + 8, 260 + 8)


def test_one_text_is_a_query_and_blanks_do_not_count(systems) -> None:
    one, spaced = systems["atomic"].search("a star", top=3), systems["atomic"].search(["  a \n star"], top=3)
    assert one["query"].tolist() == ["a star"] * 3 and spaced["query"].tolist() == ["  a \n star"] * 3
    assert one.drop(columns="query").equals(spaced.drop(columns="query"))


def test_a_folder_moved_elsewhere_and_a_link_open(tiny_results: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_results / "results/scenes", tmp_path / "moved")
    (tmp_path / "link").symlink_to(copy / "baseline")
    system = grace.open(tmp_path / "link")
    assert system.folder == copy / "baseline"
    assert all(Path(file).is_relative_to(copy) and Path(file).is_file() for file in system.images["file"])


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (lambda systems: systems["atomic"].search([]), "there is no query"),
        (lambda systems: systems["atomic"].search(["a star", " \n"]), "a caption is empty"),
        (lambda systems: systems["atomic"].search(["a \udcff star"]), "not UTF-8"),
        (lambda systems: systems["atomic"].search([3]), "the query 3 is not a string"),
        (lambda systems: systems["atomic"].search("red " * 2000), "query with its identifier has .* tokens"),
        (lambda systems: systems["atomic"].search("a star", top=0), "top is 0; give a whole number"),
        (lambda systems: systems["atomic"].search("a star", top=2.5), "top is 2.5; give a whole number"),
        (lambda systems: systems["atomic"].search("a star", beamz=3), "unknown key 'beamz'; did you mean 'beams'"),
        (lambda systems: systems["atomic"].search("a star", beams=0), "search: .*beams"),
        (lambda systems: systems["atomic"].search("a star", depth=3), "depth is set by top here"),
        (lambda systems: systems["atomic"].search("a star", device="cpu"), "device is set by grace.open"),
        (lambda systems: systems["baseline"].search("a star", beams=3), "its only setting is batch_size, not beams"),
        (lambda systems: systems["baseline"].identifiers("0"), "the dual encoder, which has no identifiers"),
        (lambda systems: systems["baseline"].below("1"), "the dual encoder, which has no identifiers"),
        (lambda systems: systems["atomic"].identifiers("nobody"), "image 'nobody' is not among the 38 images"),
        (lambda systems: systems["atomic"].score("a star", "nobody"), "image 'nobody' is not among the 38 images"),
        (lambda systems: systems["atomic"].score("", "0"), "a caption is empty"),
        (lambda systems: systems["structured"].below("<s0_99>"), "no token '<s0_99>' in these identifiers"),
        (lambda systems: systems["structured"].below([5, 5]), "no identifier in the gallery starts with"),
        (lambda systems: systems["atomic"].run({"a b": "a star"}, "x.trec"), "query id 'a b' is empty or contains white"),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_told_in_words(systems, asked, said: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(grace.GraceError, match=said):
        asked(systems)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("place", "keys", "said"),
    [
        (".", {}, "contains several trained models; give one of them: .*atomic/seed0, .*structured/seed0"),
        ("scenes/tower", {}, "contains no trained model"),
        ("nowhere", {}, "nowhere does not exist"),
        ("scenes/atomic", {"device": "gpu"}, "device is 'gpu'; it is auto, cpu or cuda"),
    ],
)
def test_what_cannot_be_opened_is_told_in_words(tiny_results: Path, place: str, keys: dict, said: str) -> None:
    with pytest.raises(grace.GraceError, match=said):
        grace.open(tiny_results / "results" / place, **keys)


def test_a_system_whose_parts_do_not_belong_together_is_refused(tiny_results: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_results / "results/scenes", tmp_path / "scenes")
    shutil.rmtree(copy / "numeric/seed0/identifiers")
    shutil.copytree(copy / "structured/seed0/identifiers", copy / "numeric/seed0/identifiers")
    with pytest.raises(grace.GraceError, match="was not trained on the identifiers"):
        grace.open(copy / "numeric")
