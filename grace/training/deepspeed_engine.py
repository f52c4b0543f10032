"""DeepSpeed's engine from the configuration: ZeRO, precision, clipping, accumulation, schedule; and the tensors out of it.

One process needs no launcher; several come from torchrun. On a CPU the same engine runs on gloo, and its shared-memory
kernel, which compiles for a minute, is left out. bf16 keeps fp32 master weights and optimizer moments, and the atomic head in fp32.
"""

from __future__ import annotations

import copy
import logging
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from grace.system.packaged import need_package
from grace.system.weights import unique_tensors
from grace.training.lora import merged
from grace.training.master_weights import head_values, set_head_values
from grace.workflow.config import Training


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
    on_gpu = torch.distributed.get_backend() == "nccl"  # which takes no tensor of the processor
    reduced = values.to("cuda") if on_gpu else values
    torch.distributed.all_reduce(reduced, operation)
    reduced = reduced.to(values.device)
    return reduced / world_size() if how == "mean" else reduced


def make_engine(learner: nn.Module, training: Training, micro_batch: int) -> Any:
    """The engine around `learner`, whose `flamingo` has its trainable parts chosen; `micro_batch` samples a process."""
    deepspeed = _import_deepspeed()
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

    DeepSpeed's own bf16 optimizer of stage 0 departs from fp32 twenty times as far (4e-2 in the loss after 20 steps of the
    distributed tests, stages 1 to 3: 2e-3).
    """
    return 1 if training.precision == "bf16" and training.zero_stage == 0 else training.zero_stage


def is_decayed(name: str) -> bool:
    """Whether weight decay applies to the parameter `name`: the matrices of the gated cross-attention (GRACE, section 4.1).

    Gates, norms and biases are left out by the rule of open_flamingo's first trainer (0.0.2): decayed gates would close, and the
    model forget the image. As there, the scale of the feed-forward's norm (`ff.0.weight`) is decayed: it is not named norm.
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


def gathered_tensors(engine: Any, training: Training) -> dict[str, Tensor]:
    """The model's tensors on the CPU in the first process (others: empty), gathered from ZeRO-3 shards if need be.

    They are those of a model without adapters: every adapter is added to its layer. The atomic head's are fp32.
    """
    model = engine.module.flamingo
    if training.zero_stage < 3:
        out = (
            {name: value.detach().cpu() for name, value in unique_tensors(model).items()} if is_first_process() else {}
        )
    else:
        import deepspeed

        out = {}
        for name, value in unique_tensors(model).items():
            with deepspeed.zero.GatheredParameters([value] if isinstance(value, nn.Parameter) else []):
                if is_first_process():
                    out[name] = value.detach().cpu().clone()
    if hasattr(model, "atomic_head") and is_first_process():
        out |= {f"atomic_head.{name}": value.cpu() for name, value in model.atomic_head.exact_values().items()}
    return merged(out, training.lora) if "lora" in training.trainable else out


def hollow(model: nn.Module) -> nn.Module:
    """A copy of `model` without memory for its parameters, to be filled by `whole_model`; its buffers are the model's."""
    empty: dict[int, Tensor] = {
        id(value): nn.Parameter(torch.empty_like(value, device="meta"), requires_grad=False)
        for value in model.parameters()
    }
    empty |= {id(value): value for value in model.buffers()}
    return copy.deepcopy(model, empty)


@contextmanager
def whole_model(engine: Any, training: Training, shell: nn.Module | None) -> Iterator[nn.Module]:
    """The model as every process can run it alone: itself, or under ZeRO 3 `shell` with the gathered parameters.

    `shell` is a `hollow` copy that was made before DeepSpeed hooked into the model, whose every forward pass would have to be
    the same in all processes. It holds all parameters in the precision of the training as long as this is in force.
    """
    model = engine.module.flamingo
    if training.zero_stage < 3:
        yield model
        return
    import deepspeed

    real, buffers = {}, dict(model.named_buffers())
    for (name, value), (other, empty) in zip(model.named_parameters(), shell.named_parameters(), strict=True):
        assert name == other, f"{name} is {other} in the copy"
        with deepspeed.zero.GatheredParameters([value]):
            real[id(empty)] = nn.Parameter(value.detach().clone(), requires_grad=False)
    places = [
        (module, name, value)
        for module in shell.modules()
        for name, value in module._parameters.items()
        if value is not None
    ]
    for module, name, empty in places:
        module._parameters[name] = real[id(empty)]
    for path, module in shell.named_modules(remove_duplicate=False):
        for name in module._buffers:
            full = f"{path}.{name}".removeprefix(".")
            module._buffers[name] = buffers.get(full, module._buffers[name])
    try:
        yield shell
    finally:
        for module, name, empty in places:
            module._parameters[name] = empty


def _import_deepspeed() -> Any:
    need_package("deepspeed", "training")
    for name, value in {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1}.items():
        os.environ.setdefault(name, str(value))
    if world_size() == 1 and not torch.distributed.is_initialized():
        # A group of one needs no port; one that was found free may be another training's by the time it is bound.
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        torch.distributed.init_process_group(backend, store=torch.distributed.HashStore(), rank=0, world_size=1)
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # would compile C++ for a minute
    return deepspeed
