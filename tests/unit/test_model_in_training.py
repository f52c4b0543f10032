"""What is changed on a model in place: recomputed layers and a whole copy, against the model itself; and that nothing stays."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from grace.identifiers.base import read_tokenizer
from grace.model.atomic_head import AtomicHead
from grace.model.flamingo import build
from grace.training import model_in_training
from grace.training.learner import prepare_parameters
from grace.training.model_in_training import ModelInTraining
from grace.workflow.config import Flamingo, ScratchLanguageModel, Training

LORA = ("perceiver", "cross_attention", "lora")


def made(tokenizer_folder, architecture: str = "opt"):
    scratch = ScratchLanguageModel(architecture=architecture, width=32, layers=2, heads=2, max_length=64)
    return build(Flamingo(scratch=scratch, perceiver_latents=3), read_tokenizer(tokenizer_folder), visual_width=16)


@torch.no_grad()
def answers(model) -> torch.Tensor:
    """Logits over the vocabulary, or over the classes of an atomic head."""
    ids = torch.arange(24).view(2, 12) + 3
    ids[:, 5] = model.media_token_id
    media = model.resample(torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(1)))
    hidden, _ = model.hidden_states(ids, media)
    return model.atomic_head(hidden[:, -1]) if hasattr(model, "atomic_head") else model.head(hidden)


def patched(model) -> list[str]:
    return [name for name, module in model.named_modules(remove_duplicate=False) if "forward" in vars(module)]


@pytest.fixture
def gathered(monkeypatch) -> list[int]:
    """DeepSpeed's gathering of a parameter that is not sharded, which does nothing; how many were asked for at a time."""
    asked: list[int] = []
    monkeypatch.setattr(
        model_in_training, "_gathered", lambda parameters: asked.append(len(parameters)) or nullcontext()
    )
    return asked


@pytest.mark.parametrize("architecture", ["opt", "llama", "mpt"])
def test_layers_are_recomputed_inside_the_context_alone(tokenizer_folder, architecture) -> None:
    model = made(tokenizer_folder, architecture)
    names, plain, before = list(model.state_dict()), answers(model), patched(model)
    training = Training(activation_checkpointing=True)
    with ModelInTraining(model, training).recomputed():
        # both layers and the perceiver; open_flamingo names a layer twice where the family's base model is the language model's
        assert len({id(model.get_submodule(name)) for name in set(patched(model)) - set(before)}) == 3
        assert list(model.state_dict()) == names and torch.equal(answers(model), plain)
    assert patched(model) == before
    with pytest.raises(KeyError), ModelInTraining(model, training).recomputed():
        raise KeyError
    assert patched(model) == before
    with ModelInTraining(model, Training()).recomputed():
        assert patched(model) == before


def test_a_forward_of_the_instance_comes_back(tokenizer_folder) -> None:
    model, training = made(tokenizer_folder), Training(activation_checkpointing=True)
    own = model.perceiver.forward
    model.perceiver.forward = replaced = lambda visual: own(visual) * 2
    doubled = answers(model)
    with ModelInTraining(model, training).recomputed():
        assert model.perceiver.forward is not replaced and torch.equal(answers(model), doubled)
    assert model.perceiver.forward is replaced


@pytest.mark.parametrize("kind", ["opt", "llama", "mpt", "lora", "atomic"])
def test_the_whole_copy_is_the_model_of_now_and_shares_no_parameter_with_it(tokenizer_folder, gathered, kind) -> None:
    model = made(tokenizer_folder, kind if kind in ("opt", "llama", "mpt") else "opt")
    if kind == "atomic":
        model.atomic_head = AtomicHead(32, torch.randn(6, 8), train_classes=True)
    training = Training(zero_stage=3, activation_checkpointing=True, **({"trainable": LORA} if kind == "lora" else {}))
    prepare_parameters(model, training, seed=0)
    inside = ModelInTraining(model, training, validated=True)
    with inside.recomputed():
        for step in range(2):
            with torch.no_grad():  # the training goes on after the copy's structure was taken
                for value in model.parameters():
                    value.add_(0.01 * (step + 1))
            if kind == "atomic":
                exact = {name: value + 0.1 for name, value in model.atomic_head.named_parameters()}
                model.atomic_head.keep_exact(exact)
            wanted = answers(model)
            with inside.whole() as whole:
                assert not patched(whole) and torch.equal(answers(whole), wanted)
                mine = {value.data_ptr() for value in model.parameters()}
                assert not mine & {value.data_ptr() for value in whole.parameters()}
                shared = [len(list(which.parameters())) for which in (whole, model)]
                assert shared[0] == shared[1], "a tied parameter was copied twice"
                assert not any(value.requires_grad for value in whole.parameters())
            assert {value.device.type for value in whole.parameters()} == {"meta"}, "its memory is held"
            assert torch.equal(answers(model), wanted)
    assert gathered == [1] * (2 * len(list(model.parameters())))


def test_the_copy_has_the_buffers_and_the_precision_of_now(tokenizer_folder, gathered) -> None:
    """DeepSpeed casts and moves a model after the copy's structure was taken, which replaces its buffers."""
    model = made(tokenizer_folder, "llama")
    model.perceiver.register_buffer("extra", torch.ones(3))
    inside = ModelInTraining(model, Training(zero_stage=3), validated=True)
    model.bfloat16()
    model.perceiver.extra = torch.full((3,), 2.0)
    with inside.whole() as whole:
        assert {value.dtype for value in whole.parameters()} == {torch.bfloat16}
        buffers = dict(model.named_buffers())
        assert buffers and {name: id(value) for name, value in whole.named_buffers()} == {
            name: id(value) for name, value in buffers.items()
        }
    assert all(value.device.type == "cpu" for value in model.buffers()), "the model's own buffers are gone"


def test_below_zero_3_the_model_is_whole_itself(tokenizer_folder, gathered) -> None:
    model = made(tokenizer_folder)
    with ModelInTraining(model, Training(zero_stage=2), validated=True).whole() as whole:
        assert whole is model
    assert not gathered
    with pytest.raises(ValueError, match="validated=True"), ModelInTraining(model, Training(zero_stage=3)).whole():
        pass
