"""Every family of language model that is made from scratch: it trains, and decodes with a cache as it does without."""

from __future__ import annotations

import pytest
import torch
from transformers import DynamicCache

from grace.identifiers.base import read_tokenizer
from grace.model.flamingo import add_tokens, build
from grace.system.weights import load_weights, save_weights, unique_tensors
from grace.workflow.config import Flamingo, ScratchLanguageModel

FAMILIES = ("opt", "llama", "mpt")


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder):
    return read_tokenizer(tokenizer_folder)


@pytest.fixture(params=FAMILIES)
def settings(request) -> Flamingo:
    scratch = ScratchLanguageModel(architecture=request.param, width=32, layers=4, heads=2, max_length=64)
    return Flamingo(scratch=scratch, perceiver_latents=3, cross_attention_every=1)


@pytest.fixture
def model(settings, tokenizer):
    return build(settings, tokenizer, visual_width=16).eval()


@pytest.fixture
def media(model):
    """Resampled images of three sequences, [3, 1, N, C]."""
    return model.resample(torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(1)))


def prompts(tokenizer) -> torch.Tensor:
    """Three prompts of one length with an image in the middle, int64 [3, 8]."""
    ids = torch.randint(3, 200, (3, 8), generator=torch.Generator().manual_seed(2))
    ids[:, 4] = tokenizer.convert_tokens_to_ids("<image>")
    return ids


@torch.no_grad()
def test_decoding_with_a_reordered_cache_equals_a_full_forward_pass(model, media, tokenizer) -> None:
    """Beams: rows are dropped, repeated and swapped between the steps, and each reads its own further tokens."""
    ids, cache = prompts(tokenizer), DynamicCache()
    hidden, cache = model.hidden_states(ids, media, past_key_values=cache)
    rows = torch.tensor([2, 0, 0, 1, 2])
    cache.reorder_cache(rows)
    ids, media = ids[rows], media[rows]
    for step, order in enumerate(([0, 1, 2, 3, 4], [4, 4, 1, 0, 2], [1, 0, 3])):
        cache.reorder_cache(torch.tensor(order))
        ids, media = ids[order], media[order]
        new = torch.arange(len(order))[:, None] * 7 + step + 5
        ids = torch.cat([ids, new], dim=1)
        hidden, cache = model.hidden_states(new, media, past_key_values=cache)
        whole, _ = model.hidden_states(ids, media)
        assert torch.allclose(model.head(hidden[:, -1]), model.head(whole[:, -1]), atol=1e-5)
    assert not torch.allclose(whole[0, -1], whole[1, -1], atol=1e-3), "the rows are alike: the test would see nothing"


@torch.no_grad()
def test_several_tokens_after_a_cache_equal_a_full_forward_pass(model, media, tokenizer) -> None:
    ids = torch.cat([prompts(tokenizer), torch.arange(9).view(3, 3) + 20], dim=1)
    _, cache = model.hidden_states(ids[:, :8], media, past_key_values=DynamicCache())
    hidden, _ = model.hidden_states(ids[:, 8:], media, past_key_values=cache)
    whole, _ = model.hidden_states(ids, media)
    assert torch.allclose(hidden, whole[:, 8:], atol=1e-5)


@torch.no_grad()
def test_padding_on_the_right_changes_nothing(model, media, tokenizer) -> None:
    ids = prompts(tokenizer)
    padded = torch.cat([ids, torch.full((3, 4), tokenizer.pad_token_id)], dim=1)
    mask = torch.tensor([[1] * 8 + [0] * 4] * 3)
    whole, _ = model.hidden_states(padded, media, mask)
    assert torch.allclose(whole[:, :8], model.hidden_states(ids, media)[0], atol=1e-5)


def test_every_parameter_of_the_language_model_gets_a_gradient(model, media, tokenizer) -> None:
    hidden, _ = model.hidden_states(prompts(tokenizer), media)
    model.head(hidden).logsumexp(-1).sum().backward()
    # The bias of a key shifts all scores of a query alike: its gradient is zero by arithmetic.
    without = [
        name
        for name, value in model.lang_encoder.named_parameters()
        if (value.grad is None or not value.grad.abs().sum() > 0) and "k_proj.bias" not in name
    ]
    assert without == []


def test_weights_go_through_a_file_with_identifier_tokens_added(settings, tokenizer, tmp_path) -> None:
    model = build(settings, tokenizer, visual_width=16)
    add_tokens(model, len(tokenizer) + 5, seed=1)
    save_weights(tmp_path / "weights", unique_tensors(model))
    again = build(settings.model_copy(update={"seed": 9}), tokenizer, 16, new_tokens=5, pretrained=False).eval()
    media = torch.randn(1, 1, 3, 16)
    ids = prompts(tokenizer)[:1]
    assert not torch.equal(again.hidden_states(ids, media)[0], model.eval().hidden_states(ids, media)[0])
    load_weights(tmp_path / "weights", again)
    assert torch.equal(again.hidden_states(ids, media)[0], model.hidden_states(ids, media)[0])
    assert again.head(again.hidden_states(ids, media)[0]).shape[-1] == len(tokenizer) + 5


def test_the_longest_sequence_is_known(model) -> None:
    assert model.max_length == 64
