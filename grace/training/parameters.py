"""Parameters by part, trained and frozen, counted on a model that has shapes and no memory."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from grace.system.weights import unique_tensors
from grace.training.deepspeed_engine import is_decayed

PARTS = ("vision", "perceiver", "language_model", "cross_attention")


@dataclass(frozen=True)
class Parameters:
    """How many parameters, by part, and how they lie in the optimizer."""

    total: dict[str, int]  # by part; the vision tower's are never in training
    trained_of: dict[str, int]
    groups: tuple[int, ...]  # trained parameters of each group of the optimizer
    largest: int  # of one tensor
    atomic_head: int = 0  # numbers of the atomic head, among those of the language model: fp32 in bf16 training too

    @property
    def in_training(self) -> int:
        return sum(count for part, count in self.total.items() if part != "vision")

    @property
    def trained(self) -> int:
        return sum(self.trained_of.values())


def count_parameters(learner: nn.Module, tower: int) -> Parameters:
    """The parameters of the module that the engine wraps, its trainable parts chosen, and of the `tower` beside it."""
    total, trained = dict.fromkeys(PARTS, 0), dict.fromkeys(PARTS, 0)
    total["vision"] = tower
    tensors = unique_tensors(learner.flamingo)
    for name, value in tensors.items():
        total[_part(name)] += value.numel()
        trained[_part(name)] += value.numel() if value.requires_grad else 0
    decayed = sum(value.numel() for name, value in tensors.items() if value.requires_grad and is_decayed(name))
    groups = tuple(count for count in (decayed, sum(trained.values()) - decayed) if count)
    largest = max((value.numel() for value in tensors.values() if value.requires_grad), default=0)
    head = sum(value.numel() for name, value in tensors.items() if name.startswith("atomic_head."))
    return Parameters(total, trained, groups, largest, head)


def _part(name: str) -> str:
    if name.startswith("perceiver."):
        return "perceiver"
    return "cross_attention" if ".gated_cross_attn_layer" in name else "language_model"
