"""The dual encoder with FAISS, against the full matrix product, with a tower that is a table of vectors."""

import json
import sys
import types

import numpy as np
import pandas as pd
import pytest
import torch

from grace.data.tables import write_dataset
from grace.evaluation import evaluate
from grace.evaluation.baselines import baseline
from grace.retrieval.nearest import nearest
from grace.retrieval.runs import read_run
from grace.system.errors import GraceError
from grace.workflow.config import Evaluate, Retrieve


def unit(rng, *shape):
    rows = rng.standard_normal(shape).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


class FakeTower:
    """Knows the vector of every caption; counts what it is asked."""

    def __init__(self, vectors):
        self.vectors, self.batches = vectors, []

    def encode_text(self, texts):
        self.batches.append(len(texts))
        return torch.from_numpy(np.stack([self.vectors[text] for text in texts]))


@pytest.fixture
def world(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    split = ["train", "test", "val", "test"] * 15  # gallery rows are not contiguous
    images = pd.DataFrame({"image_id": [f"i{n}" for n in range(60)], "split": split, "source_split": ""})
    images["file"] = images.image_id + ".png"
    captions = images.loc[images.index.repeat(3), ["image_id", "split"]].reset_index(drop=True)
    captions["caption_id"] = [f"c{n}" for n in captions.index]
    captions["text"] = [f"caption {n}" for n in captions.index]
    (tmp_path / "dataset").mkdir()
    summary = {"name": "d", "source": "scenes", "images_dir": "images", "license": ""}
    tables = write_dataset(tmp_path / "dataset", images, captions, summary)
    (tmp_path / "embeddings").mkdir()
    vectors = unit(rng, 60, 16)
    np.save(tmp_path / "embeddings/image_embeddings.npy", vectors)
    noisy = np.repeat(vectors, 3, axis=0) + 0.4 * unit(rng, 180, 16)
    noisy /= np.linalg.norm(noisy, axis=1, keepdims=True)
    tower = FakeTower(dict(zip(captions.text, noisy, strict=True)))
    module = types.ModuleType("grace.towers")
    module.open_tower = lambda folder: tower
    monkeypatch.setitem(sys.modules, "grace.towers", module)
    arguments = {name: tmp_path / name for name in ("dataset", "embeddings", "tower")}
    return types.SimpleNamespace(tables=tables, vectors=vectors, tower=tower, folder=tmp_path, arguments=arguments)


def test_run_equals_the_full_matrix_product(world):
    report = baseline(**world.arguments, output=world.folder / "out", settings=Retrieve(batch_size=7))
    run = read_run(world.folder / "out/run.trec")
    gallery, captions = world.tables.gallery, world.tables.captions_of("test")
    texts = np.stack([world.tower.vectors[text] for text in captions.text])
    full = texts @ world.vectors[gallery.index].T
    assert run.query_id.unique().tolist() == captions.caption_id.tolist()
    for caption, scores in zip(captions.caption_id, full, strict=True):
        best = np.argsort(-scores, kind="stable")[:10]
        found = run[run.query_id == caption]
        assert found.doc_id.tolist() == gallery.image_id.iloc[best].tolist()
        np.testing.assert_allclose(found.score, scores[best], atol=1e-5)
    assert json.loads((world.folder / "out/retrieval.json").read_text()) == report
    assert report["queries"] == 90 and report["hypotheses"] == 900 and report["valid_rate"] == 1.0
    assert world.tower.batches == [7] * 12 + [6]
    assert set((world.folder / "out/run.trec").read_text().split("\n")[0].split()[-1:]) == {"baseline"}


def test_the_run_is_evaluated_and_made_identically_again(world):
    for name in ("one", "two"):
        baseline(**world.arguments, output=world.folder / name, settings=Retrieve())
    assert (world.folder / "one/run.trec").read_bytes() == (world.folder / "two/run.trec").read_bytes()
    files = {"run": world.folder / "one/run.trec", "retrieval": world.folder / "one/retrieval.json"}
    row = evaluate(
        **files, dataset=world.arguments["dataset"], output=world.folder / "m.json", settings=Evaluate(resamples=50)
    )
    assert (
        row["system"] == "baseline"
        and row["R@1"] > 0.5
        and row["memorization"] is None
        and row["versus_baseline"] is None
    )


def test_a_small_gallery_is_returned_whole():
    gallery = np.ones((3, 4), dtype=np.float32) / 2
    scores, rows = nearest(gallery, gallery[:1], depth=10)
    assert scores.shape == (1, 3) and sorted(rows[0]) == [0, 1, 2]


def test_embeddings_of_another_data_set_are_refused(world):
    np.save(world.folder / "embeddings/image_embeddings.npy", world.vectors[:-1])
    with pytest.raises(GraceError, match="encode the images again"):
        baseline(**world.arguments, output=world.folder / "out", settings=Retrieve())


def test_a_tower_of_another_size_is_refused(world):
    np.save(world.folder / "embeddings/image_embeddings.npy", unit(np.random.default_rng(0), 60, 8))
    with pytest.raises(GraceError, match=r"16 dimensions.*have 8"):
        baseline(**world.arguments, output=world.folder / "out", settings=Retrieve())


@pytest.mark.parametrize("factor", [2.0, np.nan])
def test_embeddings_that_are_not_normalised_are_refused(world, factor):
    np.save(world.folder / "embeddings/image_embeddings.npy", world.vectors * np.float32(factor))
    with pytest.raises(GraceError, match="instead of 1"):
        baseline(**world.arguments, output=world.folder / "out", settings=Retrieve())
    assert not (world.folder / "out").exists()
