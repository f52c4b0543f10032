"""Prompts: one module for training and decoding, made of token ids."""

from __future__ import annotations

import pytest

from grace.identifiers.base import read_tokenizer
from grace.model.prompts import Prompts, check_lengths
from grace.system.errors import GraceError


@pytest.fixture(scope="module")
def prompts(tokenizer_folder) -> Prompts:
    return Prompts(read_tokenizer(tokenizer_folder))


def test_forms(prompts) -> None:
    decode = prompts.tokenizer.decode
    assert decode(prompts.memorize("atomic")) == "image atomic id<image>id"
    assert decode(prompts.retrieve(["two dogs run"])[0]) == "caption:two dogs run<image>id"
    assert decode(prompts.caption()) == "<image>caption:"
    assert prompts.caption_targets(["two dogs"])[0][-1] == prompts.end


@pytest.mark.parametrize(
    "caption", ["riding outside", "a # b#c", "id id", "x<image>y", "z<|endofchunk|>", "naïve 犬", ""]
)
def test_defect_01_04_a_caption_may_hold_anything(prompts, caption: str) -> None:
    ids = prompts.retrieve([caption])[0]
    assert ids.count(prompts.media) == 1 and prompts.end not in ids
    assert prompts.tokenizer.decode(ids) == f"caption:{caption}<image>id"


def test_defect_11_long_captions_are_not_cut(prompts) -> None:
    caption = "two dogs run on the green field " * 30
    assert prompts.tokenizer.decode(prompts.retrieve([caption])[0]) == f"caption:{caption}<image>id"


def test_too_long_is_an_error_not_a_cut() -> None:
    check_lengths([5, 8], 8, "query")
    with pytest.raises(GraceError, match="longest query has 9 tokens"):
        check_lengths([5, 9], 8, "query")
