"""DeepSpeed's engine from the configuration: ZeRO, precision, clipping, accumulation, schedule; and the tensors out of it.

One process needs no launcher; several come from torchrun. On a CPU the same engine runs on gloo, and its shared-memory
kernel, which compiles for a minute, is left out. bf16 keeps fp32 master weights and optimizer moments.
"""

from __future__ import annotations

import logging
import math
import os
import sys
from typing import Any

import torch
from torch import Tensor, nn

from grace.config import Training
from grace.model.checkpoints import unique_tensors


def rank() -> int:
    return int(os.environ.get("RANK", 0))


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", 1))


def is_first_process() -> bool:
    return rank() == 0


def join_processes() -> None:
    """Make the processes of a distributed run known to each other, so that they can wait; one process: nothing."""
    if world_size() > 1:
        _import_deepspeed().init_distributed()


def wait_for_all() -> None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()


def over_all(values: Tensor, how: str) -> Tensor:
    """`values` (f64 [n]) reduced over the processes: their "mean" or "max". One process: as they are."""
    if world_size() == 1:
        return values
    operation = torch.distributed.ReduceOp.MAX if how == "max" else torch.distributed.ReduceOp.SUM
    torch.distributed.all_reduce(values, operation)
    return values / world_size() if how == "mean" else values


def make_engine(learner: nn.Module, training: Training, micro_batch: int) -> Any:
    """The engine around `learner`, whose `flamingo` has its trainable parts chosen; `micro_batch` samples a process."""
    deepspeed = _import_deepspeed()
    optimizer = torch.optim.AdamW(parameter_groups(learner, training), lr=training.learning_rate)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, training))
    config = {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": training.gradient_accumulation,
        "gradient_clipping": training.gradient_clip,
        "zero_optimization": {"stage": effective_stage(training)},
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": training.precision == "bf16"},
        "steps_per_print": sys.maxsize,
    }
    engine, *_ = deepspeed.initialize(model=learner, optimizer=optimizer, lr_scheduler=scheduler, config=config)
    return engine


def effective_stage(training: Training) -> int:
    """The ZeRO stage that DeepSpeed is given: bf16 without ZeRO runs as stage 1, which keeps whole replicas as stage 0 does.

    DeepSpeed's own bf16 optimizer of stage 0 departs from fp32 twenty times as far (4e-2 in the loss after 20 steps of the
    distributed tests, stages 1 to 3: 2e-3).
    """
    return 1 if training.precision == "bf16" and training.zero_stage == 0 else training.zero_stage


def parameter_groups(learner: nn.Module, training: Training) -> list[dict[str, Any]]:
    """The trained parameters for an optimizer: weight decay on the gated cross-attention only (GRACE, section 4.1)."""
    attention = {id(p) for p in learner.flamingo.lang_encoder.gated_cross_attn_layers.parameters()}
    trained = [p for p in learner.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if id(p) in attention], "weight_decay": training.weight_decay},
        {"params": [p for p in trained if id(p) not in attention], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def learning_rate_factor(step: int, training: Training) -> float:
    """Linear warm-up from 1/warmup_steps to 1, then linear or cosine decay to 0 at the last step."""
    if step < training.warmup_steps:
        return (step + 1) / training.warmup_steps
    progress = (step - training.warmup_steps) / max(1, training.steps - training.warmup_steps)
    return 1 - progress if training.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def gathered_tensors(engine: Any, training: Training) -> dict[str, Tensor]:
    """The model's tensors on the CPU in the first process (others: empty), gathered from ZeRO-3 shards if need be."""
    model = engine.module.flamingo
    if training.zero_stage < 3:
        return (
            {name: value.detach().cpu() for name, value in unique_tensors(model).items()} if is_first_process() else {}
        )
    import deepspeed

    out = {}
    for name, value in unique_tensors(model).items():
        with deepspeed.zero.GatheredParameters([value] if isinstance(value, nn.Parameter) else []):
            if is_first_process():
                out[name] = value.detach().cpu().clone()
    return out


def _import_deepspeed() -> Any:
    for name, value in {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1"}.items():
        os.environ.setdefault(name, str(value))
    os.environ.setdefault("MASTER_PORT", str(_free_port()))
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # would compile C++ for a minute
    return deepspeed


def _free_port() -> int:
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
