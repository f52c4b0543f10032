"""Low-rank adapters (LoRA, arXiv 2106.09685) on the language model's own linear layers, by peft.

The frozen layer stays, `W x + alpha/rank * B A x` is computed, A and B are trained. B starts at zero, so the model starts as it
is without adapters. Cross-attention and perceiver are parts of their own in `train.trainable` and never get adapters. At the end
`merged` adds every adapter to its layer: a model folder holds plain layers, and nothing that reads it needs peft.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from grace.system.errors import GraceError, did_you_mean
from grace.system.packaged import need_package
from grace.workflow.config.training import Lora

ADAPTER = "default"  # peft's name of the only adapter of a layer
BASE = ".base_layer"  # peft's name of the frozen layer inside


def add_adapters(model: nn.Module, settings: Lora, seed: int) -> list[str]:
    """Put adapters into the decoder layers of a `GraceFlamingo`, in place; A is drawn by `seed`. The layers' names."""
    need_package("peft", "train.lora")
    from peft import LoraConfig, inject_adapter_in_model

    blocks = model.lang_encoder.old_decoder_blocks  # without the gated cross-attention before them
    linear = [name for name, module in blocks.named_modules() if isinstance(module, nn.Linear)]
    known = {_last(name) for name in linear}
    for wanted in settings.layers:
        if wanted not in known:
            raise GraceError(
                f"lora.layers: the language model has no linear layer {wanted}{did_you_mean(wanted, known)}"
            )
    chosen = [name for name in linear if not settings.layers or _last(name) in settings.layers]
    config = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, lora_dropout=0.0, bias="none", target_modules=chosen
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, blocks, adapter_name=ADAPTER)
    return chosen


def adapters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters of the adapters."""
    return [value for name, value in model.named_parameters() if ".lora_" in name]


def merged(tensors: dict[str, Tensor], settings: Lora) -> dict[str, Tensor]:
    """The tensors of a model with adapters as those of one without: W + alpha/rank * B A, summed in fp32, names as before."""
    out = {}
    for name, value in tensors.items():
        if ".lora_" in name:
            continue
        layer, inside, rest = name.rpartition(f"{BASE}.")
        if inside and rest == "weight":
            down, up = (tensors[f"{layer}.lora_{part}.{ADAPTER}.weight"] for part in "AB")
            change = up.float() @ down.float() * (settings.alpha / settings.rank)
            value = (value.float() + change).to(value.dtype)
        out[f"{layer}.{rest}" if inside else name] = value
    return out


def _last(name: str) -> str:
    return name.rpartition(".")[2]
