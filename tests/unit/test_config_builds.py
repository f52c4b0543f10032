"""Any configuration that passes the check builds its models: the kinds of sizes that do not fit are said, not met later."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from grace.identifiers.base import read_tokenizer
from grace.model.flamingo import build
from grace.system.errors import GraceError
from grace.towers.dual_encoder import DualEncoder
from grace.workflow.config import Config, parse

SIZE = st.integers(1, 48)
LANGUAGE = st.fixed_dictionaries({
    "architecture": st.sampled_from(["opt", "llama", "mpt"]), "width": SIZE, "layers": st.integers(1, 3),
    "heads": st.integers(1, 6), "max_length": st.integers(1, 64), "vocabulary": st.integers(1, 300),
})  # fmt: skip
TOWER = st.fixed_dictionaries({
    "image_size": st.sampled_from([8, 16, 24, 32, 48]), "patch_size": st.sampled_from([8, 16, 24, 32]), "width": SIZE,
    "layers": st.integers(1, 2), "heads": st.integers(1, 6), "text_width": SIZE, "text_layers": st.integers(1, 2),
    "embedding_dim": SIZE, "steps": st.integers(1, 100), "warmup_steps": st.integers(0, 60),
})  # fmt: skip
FLAMINGO = st.fixed_dictionaries({
    "scratch": LANGUAGE, "cross_attention_every": st.integers(1, 4), "cross_attention_heads": st.integers(1, 5),
    "cross_attention_head_dim": st.integers(1, 20), "perceiver_depth": st.integers(1, 2), "perceiver_latents": st.integers(1, 9),
})  # fmt: skip


def checked(values: dict) -> Config:
    try:
        return parse(Config, values, "test")
    except GraceError:
        assume(False)
        raise


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(values=TOWER)
def test_a_tower_that_passes_the_check_is_built(values) -> None:
    s = checked({"tower": {"scratch": values}}).tower.scratch
    model = DualEncoder(s, 20)
    vectors, tokens = model.images(torch.zeros(2, 3, s.image_size, s.image_size))
    assert vectors.shape == (2, s.embedding_dim) and tokens.shape[1] == (s.image_size // s.patch_size) ** 2
    assert model.texts(torch.zeros(2, 5, dtype=torch.long), torch.ones(2, 5, dtype=torch.bool)).shape == vectors.shape


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(values=FLAMINGO)
def test_a_language_model_that_passes_the_check_is_built(values, tokenizer_folder) -> None:
    flamingo = checked({"flamingo": values}).flamingo
    model = build(flamingo, read_tokenizer(tokenizer_folder), visual_width=16)
    media = model.resample(torch.randn(1, 5, 16))
    words = min(3, flamingo.scratch.max_length)
    hidden, _ = model.hidden_states(torch.zeros(1, words, dtype=torch.long), media)
    assert hidden.shape == (1, words, flamingo.scratch.width)
    assert bool(torch.isfinite(model.head(hidden)).all())


def test_the_check_is_no_wider_than_it_must_be() -> None:
    """Sizes that do fit are not refused."""
    for heads, width in ((1, 7), (3, 48), (6, 48)):
        parse(Config, {"flamingo": {"scratch": {"width": width, "heads": heads}}}, "test")
    with pytest.raises(GraceError):
        parse(Config, {"flamingo": {"scratch": {"width": 7, "heads": 2}}}, "test")
