"""The training loop on DeepSpeed's engine: ZeRO, precision, clipping and accumulation come from the configuration.

One process needs no launcher; several come from torchrun. On a CPU the same engine runs on gloo, and its shared-memory
kernel, which compiles for a minute, is left out.
"""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from grace.config import Training
from grace.embeddings import Embeddings
from grace.errors import GraceError
from grace.model.checkpoints import unique_tensors
from grace.training.objectives import OBJECTIVES
from grace.training.pools import Pool
from grace.training.samples import Batch, Sampler, collate
from grace.training.state import TrainingState


class Learner(nn.Module):
    """The module that DeepSpeed wraps: a Flamingo and its objective."""

    def __init__(self, flamingo: nn.Module, objective: str) -> None:
        super().__init__()
        self.flamingo, self.objective = flamingo, OBJECTIVES[objective]

    def forward(self, batches: list[Batch]) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean loss over all terms of all kinds, nats, and the mean of each kind."""
        sums = {batch.kind: self.objective(self.flamingo, batch) for batch in batches}
        total = sum(loss for loss, _ in sums.values()) / sum(terms for _, terms in sums.values())
        return total, {kind: (loss / terms).detach() for kind, (loss, terms) in sums.items()}


def rank() -> int:
    return int(os.environ.get("RANK", 0))


def world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", 1))


def is_first_process() -> bool:
    return rank() == 0


def wait_for_all() -> None:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()


def train_model(
    model: nn.Module, pools: list[Pool], objective: str, seed: int, embeddings: Embeddings, pad_id: int,
    training: Training, state: TrainingState,
) -> dict[str, Tensor]:  # fmt: skip
    """Train `model` for `training.steps` steps and return its tensors on the CPU (first process; others: empty)."""
    _choose_trainable(model, training)
    learner = Learner(model, objective)
    if training.activation_checkpointing:
        _checkpoint_activations(model)
    engine = _engine(learner, training, sum(pool.batch for pool in pools))
    start = _resume(engine, state)
    samplers = [
        Sampler(pool.samples.lengths(), pool.batch, (seed, place), rank(), world_size())
        for place, pool in enumerate(pools)
    ]
    # Captions are supervised from their first token on, identifiers from the prompt's word `id` on.
    prompt_tokens = 0 if objective == "caption" else 1
    writer = _tensorboard(state, start)
    engine.train()
    began, seen = time.perf_counter(), 0
    bar = tqdm(
        range(start, training.steps), desc="train", unit="step", disable=None, initial=start, total=training.steps
    )
    for step in bar:
        for part in range(training.gradient_accumulation):
            micro = step * training.gradient_accumulation + part
            batches = [
                collate(pool.samples, sampler.rows(micro), embeddings, pad_id, pool.kind, prompt_tokens).to(
                    engine.device
                )
                for pool, sampler in zip(pools, samplers, strict=True)
            ]
            loss, parts = engine(batches)
            engine.backward(loss)
            engine.step()
            seen += sum(pool.batch for pool in pools) * world_size()
        done = step + 1
        if done % training.log_every == 0 or done == training.steps:
            _log(state, writer, bar, engine, done, loss, parts, seen / (time.perf_counter() - began), training.steps)
        if done % training.save_every == 0 and done < training.steps:
            _save(engine, state, done)
    if writer:
        writer.close()
    return _tensors(engine, training)


def _choose_trainable(model: nn.Module, training: Training) -> None:
    model.requires_grad_(False)
    attention = model.lang_encoder.gated_cross_attn_layers
    if "language_model" in training.trainable:
        model.lang_encoder.requires_grad_(True)
    attention.requires_grad_("cross_attention" in training.trainable)
    model.perceiver.requires_grad_("perceiver" in training.trainable)
    if hasattr(model, "atomic_head"):
        model.atomic_head.projection.requires_grad_(True)
        model.atomic_head.log_scale.requires_grad_(True)
        model.atomic_head.classes.requires_grad_(model.atomic_head.train_classes)


def _checkpoint_activations(model: nn.Module) -> None:
    """Recompute every decoder layer in the backward pass (open_flamingo's own flag does nothing by itself)."""
    from torch.utils.checkpoint import checkpoint

    for layer in model.lang_encoder._get_decoder_layers():
        plain = layer.forward
        layer.forward = lambda *args, plain=plain, **kwargs: checkpoint(plain, *args, use_reentrant=False, **kwargs)


def _engine(learner: Learner, training: Training, micro_batch: int) -> Any:
    for name, value in {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1"}.items():
        os.environ.setdefault(name, str(value))
    os.environ.setdefault("MASTER_PORT", str(_free_port()))
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # would compile C++ for a minute
    attention = {id(p) for p in learner.flamingo.lang_encoder.gated_cross_attn_layers.parameters()}
    trained = [p for p in learner.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if id(p) in attention], "weight_decay": training.weight_decay},
        {"params": [p for p in trained if id(p) not in attention], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], lr=training.learning_rate)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_factor(step, training))
    config = {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": training.gradient_accumulation,
        "gradient_clipping": training.gradient_clip,
        "zero_optimization": {"stage": training.zero_stage},
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": training.precision == "bf16"},
        "steps_per_print": sys.maxsize,
    }
    engine, *_ = deepspeed.initialize(model=learner, optimizer=optimizer, lr_scheduler=scheduler, config=config)
    return engine


def learning_rate_factor(step: int, training: Training) -> float:
    """Linear warm-up from 1/warmup_steps to 1, then linear or cosine decay to 0 at the last step."""
    if step < training.warmup_steps:
        return (step + 1) / training.warmup_steps
    progress = (step - training.warmup_steps) / max(1, training.steps - training.warmup_steps)
    return 1 - progress if training.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def _free_port() -> int:
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def _resume(engine: Any, state: TrainingState) -> int:
    """Load the newest complete state, if there is one; the number of steps that it has done."""
    tag = state.latest()
    if tag is None:
        return 0
    from grace.training.safe_state import loading_tensors_only

    with loading_tensors_only():
        path, client = engine.load_checkpoint(str(state.folder), tag=tag)
    if path is None or client.get("world_size") != world_size():
        raise GraceError(
            f"the state in {state.folder} is of {client.get('world_size') if path else 'an unknown number of'} processes, this run "
            f"has {world_size()}; run with as many, or delete the folder to start anew"
        )
    if is_first_process():
        print(f"going on from step {client['step']} in {state.folder}", flush=True)
        state.metrics_until(client["step"])
    return client["step"]


def _save(engine: Any, state: TrainingState, step: int) -> None:
    tag = f"step{step}"
    engine.save_checkpoint(str(state.folder), tag=tag, client_state={"step": step, "world_size": world_size()})
    wait_for_all()
    if is_first_process():
        state.keep_only(tag)


def _tensorboard(state: TrainingState, start: int) -> Any:
    if not is_first_process():
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(state.folder / "tensorboard"), purge_step=start + 1)


def _log(state, writer, bar, engine, step: int, loss: Tensor, parts: dict, speed: float, steps: int) -> None:
    if not math.isfinite(loss.item()):
        raise GraceError(
            f"the loss is not finite at step {step}; lower train.learning_rate or gradient_clip. "
            f"The last good state is kept in {state.folder}"
        )
    if not is_first_process():
        return
    line = {"step": step, "loss": loss.item(), **{f"loss_{kind}": value.item() for kind, value in parts.items()}}
    line |= {"learning_rate": engine.get_lr()[0], "samples_per_second": round(speed, 1)}
    state.log(line)
    for name, value in line.items():
        if name != "step":
            writer.add_scalar(name, value, step)
    bar.set_postfix(loss=f"{line['loss']:.3f}", samples_s=f"{speed:.0f}")
    if bar.disable and (step * 10) // steps > ((step - 1) * 10) // steps:
        print(f"step {step}/{steps} loss {line['loss']:.4f} samples/s {speed:.0f}", flush=True)


def _tensors(engine: Any, training: Training) -> dict[str, Tensor]:
    """The model's tensors on the CPU, gathered from ZeRO-3 shards if need be."""
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
