"""Captions by a model: a small BLIP from a local folder, and a captioner of this project's own."""

from __future__ import annotations

import pytest

from grace.captions.writers import write_captions
from grace.system.errors import GraceError
from grace.workflow.config import Captioner, Flamingo, Folder, ScratchLanguageModel, ScratchTower, Tower
from grace.workflow.config import Scenes as ScenesSettings
from tests.unit.photos import picture

WORDS = ["a", "cat", "dog", "on", "the", "mat", "red", "blue", "house", "two"]


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(5):
        picture(number).save(tmp_path / f"photos/{number}.png")
    return tmp_path / "photos"


@pytest.fixture
def blip(tmp_path):
    """A BLIP with random weights and twelve words."""
    from grace.system.torchvision_shim import import_torchvision

    import_torchvision()
    import torch
    from transformers import (
        BertTokenizerFast,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessor,
        BlipProcessor,
    )

    folder = tmp_path / "blip"
    folder.mkdir()
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"))
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**shape, "encoder_hidden_size": 16, "vocab_size": len(vocabulary), "bos_token_id": 5, "sep_token_id": 3}
    config = BlipConfig(
        text_config={**text, "eos_token_id": 3, "pad_token_id": 0},
        vision_config={**shape, "image_size": 32, "patch_size": 16}, projection_dim=16,
    )  # fmt: skip
    torch.manual_seed(0)
    BlipForConditionalGeneration(config).save_pretrained(folder, safe_serialization=True)
    BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return folder


def test_a_model_of_transformers(photos, blip):
    settings = Folder(images=str(photos), captioner=str(blip), captions_per_image=2)
    files = [f"{number}.png" for number in range(5)]
    found = write_captions(photos, files, settings)
    assert list(found) == files
    for texts in found.values():
        assert 1 <= len(texts) <= 2 and len(set(texts)) == len(texts)
        assert all(set(text.split()) <= {*WORDS, "[DEC]"} for text in texts), texts
    assert write_captions(photos, files, settings) == found


def test_a_model_that_is_none(photos, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "none").mkdir()
    with pytest.raises(GraceError, match=r"is neither a results folder .* nor a captioning model") as caught:
        write_captions(photos, ["0.png"], Folder(images=str(photos), captioner=str(tmp_path / "none")))
    assert "\n" not in str(caught.value)


def test_a_captioner_of_this_project(photos, tmp_path):
    from grace.data.scenes import scenes
    from grace.model.tokenizer import tokenizer
    from grace.towers import tower
    from grace.towers.embeddings import encode
    from grace.training.captioner import captioner

    made = {name: tmp_path / "results" / name for name in ("dataset", "tokenizer", "tower", "embeddings", "captioner")}
    small = Tower(scratch=ScratchTower(image_size=48, patch_size=24, width=16, layers=1, heads=2, text_width=16, text_layers=1,
                                       embedding_dim=16, steps=2, batch_size=8))  # fmt: skip
    flamingo = Flamingo(scratch=ScratchLanguageModel(width=16, layers=2, heads=2, vocabulary=300), cross_attention_heads=2,
                        cross_attention_head_dim=8)  # fmt: skip
    drawn = ScenesSettings(train_images=8, val_images=1, test_images=2, image_size=48)
    scenes(output=made["dataset"], settings=drawn, name="scenes")
    tokenizer(dataset=made["dataset"], output=made["tokenizer"], settings=flamingo)
    tower(dataset=made["dataset"], output=made["tower"], settings=small)
    encode(dataset=made["dataset"], tower=made["tower"], output=made["embeddings"], settings=small)
    captioner(
        dataset=made["dataset"], tokenizer=made["tokenizer"], embeddings=made["embeddings"], output=made["captioner"],
        state=tmp_path / "state", flamingo=flamingo,
        training=Captioner(steps=60, retrieve_batch=16, warmup_steps=2, learning_rate=0.01),
    )  # fmt: skip
    settings = Folder(images=str(photos), captioner=str(tmp_path / "results"), captions_per_image=2)
    found = write_captions(photos, [f"{number}.png" for number in range(5)], settings)
    assert len(found) == 5 and all(1 <= len(set(texts)) == len(texts) <= 2 for texts in found.values())
    assert write_captions(photos, [f"{number}.png" for number in range(5)], settings) == found
