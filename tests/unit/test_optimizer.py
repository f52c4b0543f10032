"""What the optimizer is given: weight decay against open_flamingo's rule, and the learning rate of a step."""

from __future__ import annotations

import pytest
import torch

from grace.identifiers.base import read_tokenizer
from grace.model.atomic_head import AtomicHead
from grace.model.flamingo import build
from grace.training.deepspeed_engine import parameter_groups
from grace.training.learner import Learner, prepare_parameters
from grace.training.parameters import count_parameters
from grace.workflow.config import Flamingo, ScratchLanguageModel, Training

WHOLE = ("perceiver", "cross_attention", "language_model")


def open_flamingo_decays(name: str) -> bool:
    """`apply_decay` of train/train.py of open_flamingo 0.0.2, word for word (2.0 decays every gated_cross_attn)."""
    return (
        "gated_cross_attn_layer" in name
        and "ff_gate" not in name
        and "attn_gate" not in name
        and "norm" not in name
        and "bias" not in name
    )


def learner(tokenizer_folder, architecture: str, training: Training, atomic: bool = False) -> Learner:
    scratch = ScratchLanguageModel(architecture=architecture, width=32, layers=2, heads=2, max_length=64)
    settings = Flamingo(scratch=scratch, perceiver_latents=3, cross_attention_every=1, gate=0.5)
    model = build(settings, read_tokenizer(tokenizer_folder), 16)
    if atomic:
        model.atomic_head = AtomicHead(32, torch.randn(6, 8), train_classes=True)
    prepare_parameters(model, training, 0)
    return Learner(model, "classify" if atomic else "generate")


@pytest.mark.parametrize(
    "trainable", [WHOLE, ("cross_attention",), ("perceiver", "cross_attention", "lora"), ("perceiver",)]
)
@pytest.mark.parametrize("architecture", ["opt", "llama", "mpt"])
def test_a_step_without_gradients_shrinks_what_open_flamingo_decays_and_nothing_else(
    tokenizer_folder, architecture, trainable
) -> None:
    training = Training(trainable=trainable, weight_decay=0.1)
    given = learner(tokenizer_folder, architecture, training, atomic=architecture == "opt")
    with torch.no_grad():  # biases of zero would not show that they shrink
        for value in given.parameters():
            value.add_(0.25)
    before = {name: value.clone() for name, value in given.named_parameters()}
    optimizer = torch.optim.AdamW(parameter_groups(given, training), lr=0.5)
    for value in given.parameters():
        value.grad = torch.zeros_like(value)
    optimizer.step()
    moved = {name for name, value in given.named_parameters() if not torch.equal(value, before[name])}
    assert moved == {name for name, value in before.items() if open_flamingo_decays(name) and is_trained(given, name)}
    assert all(torch.allclose(dict(given.named_parameters())[name], before[name] * (1 - 0.5 * 0.1)) for name in moved)
    if "cross_attention" in trainable:
        kinds = {name.split("gated_cross_attn_layer.")[1] for name in moved}
        matrices = {"attn.to_q.weight", "attn.to_kv.weight", "attn.to_out.weight", "ff.1.weight", "ff.3.weight"}
        assert kinds == matrices | {"ff.0.weight"}  # a LayerNorm whose name does not say so: open_flamingo decays it


def is_trained(given: Learner, name: str) -> bool:
    return dict(given.named_parameters())[name].requires_grad


@pytest.mark.parametrize("trainable", [WHOLE, ("perceiver",), ("cross_attention",)])
def test_every_trained_parameter_is_in_one_group_and_the_plan_counts_the_same_groups(
    tokenizer_folder, trainable
) -> None:
    training = Training(trainable=trainable)
    given = learner(tokenizer_folder, "opt", training)
    groups = parameter_groups(given, training)
    listed = [id(value) for group in groups for value in group["params"]]
    assert sorted(listed) == sorted(id(value) for value in given.parameters() if value.requires_grad)
    sizes = tuple(sum(value.numel() for value in group["params"]) for group in groups)
    assert count_parameters(given, 0).groups == sizes
