"""Adapters: what is trained, and that the merged model is the adapted one."""

from __future__ import annotations

import pytest
import torch

from grace.identifiers.base import read_tokenizer
from grace.model.flamingo import build
from grace.system.errors import GraceError
from grace.system.weights import load_weights, save_weights, unique_tensors
from grace.training.learner import choose_trainable
from grace.training.lora import adapters, add_adapters, merged
from grace.workflow.config import Flamingo, ScratchLanguageModel, Training
from grace.workflow.config.training import Lora

LORA = Training(trainable=("perceiver", "cross_attention", "lora"), lora=Lora(rank=3, alpha=5.0))


def made(tokenizer_folder, architecture: str):
    scratch = ScratchLanguageModel(architecture=architecture, width=32, layers=2, heads=2, max_length=64)
    return build(
        Flamingo(scratch=scratch, perceiver_latents=3), read_tokenizer(tokenizer_folder), visual_width=16
    ).eval()


@torch.no_grad()
def logits(model):
    ids = torch.arange(24).view(2, 12) + 3
    ids[:, 5] = model.media_token_id
    media = model.resample(torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(1)))
    return model.head(model.hidden_states(ids, media)[0])


@pytest.mark.parametrize("architecture", ["opt", "llama", "mpt"])
def test_the_merged_model_gives_the_logits_of_the_adapted_one(tokenizer_folder, tmp_path, architecture) -> None:
    model = made(tokenizer_folder, architecture)
    plain, names = logits(model), set(unique_tensors(model))
    layers = add_adapters(model, LORA.lora, seed=0)
    assert torch.equal(logits(model), plain), "fresh adapters change the model"
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for adapter in adapters(model):
            adapter.copy_(torch.randn(adapter.shape, generator=generator) / 4)
    adapted = logits(model)
    assert not torch.allclose(adapted, plain, atol=1e-2)
    tensors = merged(unique_tensors(model), LORA.lora)
    assert set(tensors) == names and len(adapters(model)) == 2 * len(layers)
    save_weights(tmp_path / "merged", tensors)
    fresh = made(tokenizer_folder, architecture)
    load_weights(tmp_path / "merged", fresh)  # strict: no name of peft's is left
    assert torch.allclose(logits(fresh), adapted, atol=1e-5)


def test_adapters_are_trained_in_place_of_the_language_model(tokenizer_folder) -> None:
    model = made(tokenizer_folder, "opt")
    add_adapters(model, Lora(rank=2, layers=("q_proj", "v_proj")), seed=0)
    choose_trainable(model, LORA)
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    inside = {name for name in trained if ".decoder_layer." in name}
    assert inside and all(".q_proj.lora_" in name or ".v_proj.lora_" in name for name in inside)
    rest = {name.split(".")[0] + ("" if "gated_cross_attn" in name else " own") for name in trained - inside}
    assert rest == {"perceiver own", "lang_encoder", "lang_encoder own"}
    assert (
        [name for name in trained - inside if "perceiver" not in name and "gated" not in name]
        == [
            "lang_encoder.model.decoder.embed_tokens.weight"  # identifiers are written with new tokens; the head is tied to it
        ]
    )


def test_what_does_not_fit_is_told(tokenizer_folder) -> None:
    with pytest.raises(GraceError, match="no linear layer q_prj; did you mean 'q_proj'"):
        add_adapters(made(tokenizer_folder, "opt"), Lora(layers=("q_prj",)), seed=0)
    for keys, said in (
        ({"trainable": ("lora", "language_model")}, "instead of language_model"),
        ({"optimizer_offload": "cpu"}, "needs zero_stage"),
        ({"patience": 2}, "set validate_every"),
    ):
        with pytest.raises(ValueError, match=said):
            Training(**keys)
