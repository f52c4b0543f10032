"""The model card says of every tower and of every source of pseudo-queries what is true of it, and no more."""

from __future__ import annotations

import pytest
import torch

from grace.training.card import LICENCES, UNKNOWN, model_card
from grace.workflow.config import Flamingo, Training

MPT = "anas-awadalla/mpt-1b-redpajama-200b"


def card(
    tower: dict, source: str = "captioner", language_model: str = "scratch", scheme: str = "structured", **training
) -> str:
    flamingo = Flamingo(
        language_model=language_model, pretrained={"model": MPT} if language_model == "pretrained" else {}
    )
    config = {
        "scheme": scheme, "seed": 3, "flamingo": flamingo.model_dump(), "identifiers": "abc", "processes": 1,
        "dataset": {"name": "tiny", "license": "", "counts": {"train": {"images": 7}}}, "vision_tower": tower,
        "validation": None, "pseudo_queries": source,
    }  # fmt: skip
    return model_card(
        config, Training(**{"pseudo_query_share": 0.5, "memorize_batch": 8, **training}), {"w": torch.zeros(5, 2)}
    )


def line(text: str, start: str) -> str:
    return next(one for one in text.splitlines() if one.startswith(start))


@pytest.mark.parametrize("language_model", ["scratch", "pretrained"])
@pytest.mark.parametrize(
    ("kind", "settings", "named", "licence"),
    [
        ("scratch", {}, "trained on this data set", "that of this project's user"),
        ("efficientnet_lite0", {}, "EfficientNet-Lite0", UNKNOWN),
        ("open_clip", {"model": "ViT-L-14", "pretrained": "openai"}, "open_clip ViT-L-14 (openai)", LICENCES["openai"]),
        ("open_clip", {"model": "ViT-L-14", "pretrained": "mine"}, "open_clip ViT-L-14 (mine)", UNKNOWN),
        ("open_clip", {"model": "local-dir:/clip", "pretrained": "openai"}, "open_clip local-dir:/clip,", UNKNOWN),
    ],
)
def test_a_tower_has_its_own_licence(kind: str, settings: dict, named: str, licence: str, language_model: str) -> None:
    text = card({"kind": kind, "settings": settings, "weights_sha256": "def"}, language_model=language_model)
    said = line(text, "- Vision tower")
    assert named in said and f"licence: {licence}." in said and "`def`" in said
    own = "that of this project's user" if language_model == "scratch" else LICENCES[MPT]
    assert line(text, "- Language model").endswith(f"licence: {own}.")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("captioner", "a captioner of this project"),
        ("nearest", "borrowed"),
        ("file", "a file gave"),
        ("", "not recorded"),
    ],
)
def test_pseudo_queries_are_called_what_they_are(source: str, said: str) -> None:
    assert said in line(card({"kind": "scratch"}, source), "- Captions of train images")


def test_what_it_learned_from_is_said() -> None:
    both, one = card({"kind": "scratch"}), card({"kind": "scratch"}, pseudo_query_share=1.0, distillation=2.0)
    assert "- Captions of train images, and as captions of gallery images" in both and "teacher" not in both
    assert "- As captions of gallery images" in one and "aptions of train images, and" not in one
    assert "its teacher (distillation)" in one


@pytest.mark.parametrize(
    ("scheme", "said"),
    [("structured", "answers to the pseudo-queries was"), ("atomic", "answers to these captions was")],
)
def test_whom_the_tower_taught_what_is_said(scheme: str, said: str) -> None:
    """Gold captions of train images are not what identifiers are taught by: the tower ranks the gallery."""
    text = card({"kind": "scratch"}, scheme=scheme, pseudo_query_share=0.1, distillation=10.0)
    assert f"What the vision tower {said} its teacher" in text and "| distillation | 10.0 |" in text


def test_numbers_and_data_are_those_of_the_model() -> None:
    text = card({"kind": "scratch"})
    assert (
        "10 numbers" in text
        and "Data set tiny: 7 train images." in text
        and "transductive corpus, unseen queries" in text
    )
