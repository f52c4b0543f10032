"""A caption that a model cannot read is named before anything is trained, whatever split it is of."""

from __future__ import annotations

import pandas as pd
import pytest
from PIL import Image

from grace.data.tables import load_dataset, write_dataset
from grace.model.tokenizer import tokenizer
from grace.system.errors import GraceError
from grace.towers import tower
from grace.workflow.config import Flamingo, ScratchLanguageModel, ScratchTower, Tower

LONG = "a very long caption " * 80


@pytest.fixture(params=["train", "val", "test"])
def with_a_long_caption(request, tiny, tmp_path):
    """A data set whose longest caption is one of a split; its images exist."""
    data = load_dataset(tiny["dataset"])
    for file in data.images["file"]:
        Image.new("RGB", (16, 16)).save(tmp_path / file)
    captions = data.captions.copy()
    row = captions.index[captions["split"] == request.param][0]
    captions.loc[row, "text"] = LONG.strip()
    summary = {"name": "tiny", "source": "test", "images_dir": str(tmp_path), "license": "none"}
    write_dataset(tmp_path / "long", pd.DataFrame(data.images), captions, summary)
    return request.param, tmp_path / "long"


def test_the_tokenizer_names_it(with_a_long_caption, tmp_path) -> None:
    split, dataset = with_a_long_caption
    settings = Flamingo(scratch=ScratchLanguageModel(max_length=60))
    with pytest.raises(
        GraceError, match=rf"longest caption of the split {split} .*\('a very long caption a very .* reads at most 60"
    ):
        tokenizer(dataset=dataset, output=tmp_path / "out", settings=settings)
    assert not (tmp_path / "out").exists()


def test_the_tower_names_it_unless_it_was_trained_with_it(with_a_long_caption, tmp_path) -> None:
    split, dataset = with_a_long_caption
    small = {"steps": 1, "width": 32, "text_width": 32, "embedding_dim": 16, "batch_size": 4, "warmup_steps": 0}
    settings = Tower(scratch=ScratchTower(image_size=32, **small))
    if split == "train":
        tower(dataset=dataset, output=tmp_path / "out", settings=settings)
        return
    with pytest.raises(GraceError, match=rf"caption of the split {split} has 320 words .* reads at most 256"):
        tower(dataset=dataset, output=tmp_path / "out", settings=settings)
    assert not (tmp_path / "out").exists()


def test_a_query_of_ones_own_is_told_too(with_a_long_caption, tmp_path) -> None:
    from grace.towers import open_tower

    split, dataset = with_a_long_caption
    if split != "train":
        pytest.skip("one trained tower is enough")
    small = {"steps": 1, "width": 32, "text_width": 32, "embedding_dim": 16, "batch_size": 4, "warmup_steps": 0}
    tower(dataset=dataset, output=tmp_path / "out", settings=Tower(scratch=ScratchTower(image_size=32, **small)))
    opened = open_tower(tmp_path / "out")
    assert opened.encode_text([LONG]).shape == (1, 16)
    with pytest.raises(GraceError, match="has 640 words and punctuation marks, but the tower reads at most 320"):
        opened.encode_text([LONG + LONG])
