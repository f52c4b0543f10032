"""DeepSpeed's engine from the configuration: ZeRO, precision, clipping, accumulation, and the learning-rate schedule.

On a CPU the same engine runs. bf16 keeps fp32 master weights and optimizer moments, and the atomic head in fp32.
"""

from __future__ import annotations

import math
import sys
from typing import Any

import torch
from torch import nn

from grace.training.master_weights import head_values, set_head_values
from grace.training.processes import import_deepspeed
from grace.workflow.config import Training


def make_engine(learner: nn.Module, training: Training, micro_batch: int) -> Any:
    """The engine around `learner`, whose trainable parts are chosen; `micro_batch`: samples per micro-step and process."""
    deepspeed = import_deepspeed()
    optimizer = torch.optim.AdamW(parameter_groups(learner, training), lr=training.learning_rate)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, training))
    config = {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": training.gradient_accumulation,
        "gradient_clipping": training.gradient_clip,
        "zero_optimization": {"stage": effective_stage(training), **_offload(training)},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # torch's AdamW steps on a CPU too; DeepSpeed's compiles C++ first
        "bf16": {"enabled": training.precision == "bf16"},
        "steps_per_print": sys.maxsize,
    }
    head = head_values(learner, training)
    engine, *_ = deepspeed.initialize(model=learner, optimizer=optimizer, lr_scheduler=scheduler, config=config)
    set_head_values(engine, head, training)
    return engine


def _offload(training: Training) -> dict[str, Any]:
    if training.optimizer_offload == "none":
        return {}
    return {"offload_optimizer": {"device": "cpu", "pin_memory": torch.cuda.is_available()}}


def effective_stage(training: Training) -> int:
    """The ZeRO stage that DeepSpeed is given: bf16 without ZeRO runs as stage 1, which keeps whole replicas as stage 0 does.

    DeepSpeed's own bf16 optimizer of stage 0 deviates twenty times as much from fp32 (4e-2 in the loss after 20 steps of the
    distributed tests; stages 1 to 3: 2e-3).
    """
    return 1 if training.precision == "bf16" and training.zero_stage == 0 else training.zero_stage


def is_decayed(name: str) -> bool:
    """Whether weight decay applies to the parameter `name`: the matrices of the gated cross-attention (GRACE, section 4.1).

    Gates, norms and biases are excluded, following open_flamingo's first trainer (0.0.2): decayed gates would close, and the model
    would ignore the image. As there, the scale of the feed-forward's norm (`ff.0.weight`) is decayed: its name lacks "norm".
    """
    left_out = ("ff_gate", "attn_gate", "norm", "bias")
    return "gated_cross_attn_layer" in name and not any(part in name for part in left_out)


def parameter_groups(learner: nn.Module, training: Training) -> list[dict[str, Any]]:
    """The trained parameters for an optimizer: those with weight decay, then those without; no group is empty."""
    trained = [(name, p) for name, p in learner.named_parameters() if p.requires_grad]
    groups = [
        {"params": [p for name, p in trained if is_decayed(name)], "weight_decay": training.weight_decay},
        {"params": [p for name, p in trained if not is_decayed(name)], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def learning_rate_factor(step: int, training: Training) -> float:
    """Linear warm-up from 1/warmup_steps to 1, then linear or cosine decay to 0 at the last step, or 1 (constant)."""
    if step < training.warmup_steps:
        return (step + 1) / training.warmup_steps
    if training.schedule == "constant":
        return 1.0
    progress = (step - training.warmup_steps) / max(1, training.steps - training.warmup_steps)
    return 1 - progress if training.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
