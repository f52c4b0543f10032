"""The atomic head in fp32 while the rest is trained in bf16, by the master weights of DeepSpeed's optimizer.

DeepSpeed rounds a model to bf16 before it makes its fp32 master weights, and hands the model the rounded ones after every step. The
head's master weights start from its own fp32 values, and the head computes with them (`AtomicHead.keep_exact`). This works under
every ZeRO stage; all processes call these functions together. In fp32 training they do nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grace.workflow.config import Training


def head_values(learner: nn.Module, training: Training) -> dict[str, Tensor]:
    """Copies of the head's trained parameters by name, before DeepSpeed rounds them; none without a head or in fp32."""
    return {name: value.detach().clone() for name, value in _trained(learner, training).items()}


def set_head_values(engine: Any, values: dict[str, Tensor], training: Training) -> None:
    """Make `values` (of `head_values`) the master weights."""
    for name, value in _trained(engine.module, training).items():
        _set_master_weight(value, values[name].to(engine.device))


def refresh_head(engine: Any, training: Training) -> None:
    """Hand the master weights to the head: before the first step, and after every one."""
    trained = _trained(engine.module, training)
    if not trained:
        return
    from deepspeed.utils import safe_get_full_fp32_param

    exact = {name: safe_get_full_fp32_param(value) for name, value in trained.items()}
    engine.module.flamingo.atomic_head.keep_exact(exact)


def _trained(learner: nn.Module, training: Training) -> dict[str, nn.Parameter]:
    head = getattr(learner.flamingo, "atomic_head", None)
    if head is None or training.precision != "bf16":
        return {}
    return {name: value for name, value in head.named_parameters() if value.requires_grad}


def _set_master_weight(parameter: nn.Parameter, value: Tensor) -> None:
    from deepspeed.utils import safe_get_local_fp32_param, safe_set_full_fp32_param, safe_set_local_fp32_param

    if not hasattr(parameter, "ds_id"):
        safe_set_full_fp32_param(parameter, value)
        return
    # ZeRO 3: setting the whole parameter fails where the last process has a share that is shorter than the others'.
    size = safe_get_local_fp32_param(parameter).numel()
    shares = torch.distributed.get_world_size()
    padded = F.pad(value.flatten(), (0, size * shares - value.numel()))
    safe_set_local_fp32_param(parameter, padded[size * torch.distributed.get_rank() :][:size])
