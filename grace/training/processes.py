"""The processes of one training: who this one is, waiting for each other, and numbers that all of them agree on.

One process needs no launcher; several come from torchrun (`grace.training.launch`), which sets RANK and WORLD_SIZE. On a CPU they
talk over gloo, and DeepSpeed's shared-memory kernel, which compiles for a minute, is left out.
"""

from __future__ import annotations

import logging
import os
from typing import Any

import torch
from torch import Tensor

from grace.system.packaged import need_package


def rank() -> int:
    return int(os.environ.get("RANK", 0))


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", 1))


def is_first_process() -> bool:
    return rank() == 0


def join_processes() -> None:
    """Make the processes of a distributed run known to each other, so that they can wait; one process: nothing."""
    if world_size() > 1:
        import_deepspeed().init_distributed()


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


def import_deepspeed() -> Any:
    """DeepSpeed, ready for the machine at hand and, in a run of one process, for a process group of that one."""
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
