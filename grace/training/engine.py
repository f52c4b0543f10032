"""The training loop: batches, steps, log, resumable states, and how it ends.

It ends when the steps are done, or validations are no better any more; with `Interrupted` after SIGTERM, a state saved; or
with a `GraceError` when the loss is not finite or a state cannot be written, the last good state kept. What the processes
decide, they decide together.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from grace.model.batches import Batch, collate, media_of, share_images
from grace.system.errors import GraceError, Interrupted
from grace.system.packaged import need_package
from grace.towers.embeddings import Embeddings
from grace.training.deepspeed_engine import (
    gathered_tensors,
    hollow,
    is_first_process,
    make_engine,
    over_all,
    rank,
    whole_model,
    world_size,
)
from grace.training.distillation import Teacher
from grace.training.lora import adapters, add_adapters
from grace.training.master_weights import refresh_head
from grace.training.memory import checkpoint_activations
from grace.training.objectives import OBJECTIVES
from grace.training.pools import Pool
from grace.training.resume import resume, save, told_where
from grace.training.sampler import Sampler
from grace.training.signals import Termination
from grace.training.space import check_training_fits
from grace.training.state import TrainingState
from grace.training.validation import Validation, Validations
from grace.workflow.config import Training


class Learner(nn.Module):
    """The module that DeepSpeed wraps: a Flamingo and its objective."""

    def __init__(
        self, flamingo: nn.Module, objective: str, loss_chunk: int = 0, teacher: Teacher | None = None
    ) -> None:
        super().__init__()
        self.flamingo, self.objective, self.loss_chunk = flamingo, OBJECTIVES[objective], loss_chunk
        self.teacher = teacher

    def forward(self, batches: list[Batch]) -> tuple[Tensor, dict[str, Tensor]]:
        """The mean loss over all terms of all kinds, nats, and the mean of each kind.

        Batches that share one `visual` (see `share_images`) share its run through the perceiver.
        """
        resampled: dict[int, Tensor] = {}
        sums = {}
        for batch in batches:
            if id(batch.visual) not in resampled:
                resampled[id(batch.visual)] = self.flamingo.resample(batch.visual)
            media = media_of(self.flamingo, batch, resampled[id(batch.visual)])
            sums[batch.kind] = self.objective(self.flamingo, batch, media, self.loss_chunk, self.teacher)
        total = sum(loss for loss, _ in sums.values()) / sum(terms for _, terms in sums.values())
        return total, {kind: (loss / terms).detach() for kind, (loss, terms) in sums.items()}


def train_model(
    model: nn.Module, pools: list[Pool], objective: str, seed: int, embeddings: Embeddings, pad_id: int,
    training: Training, state: TrainingState, validation: Validation | None = None, teacher: Teacher | None = None,
    output: Path | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """Train `model` for `training.steps` steps and return its tensors on the CPU (first process; others: empty).

    With a `validation` they are those of the model that it found best. A disk without room for the states, or for the model
    that will be written to `output`, is a `GraceError` before the first step.
    """
    if "lora" in training.trainable:
        add_adapters(model, training.lora, seed)
    choose_trainable(model, training)
    shell = hollow(model) if validation and training.zero_stage == 3 else None
    if training.activation_checkpointing:
        checkpoint_activations(model)
    learner = Learner(model, objective, training.loss_chunk, teacher)
    if is_first_process():
        check_training_fits(learner, training, state.folder, output)
    engine, start = resume(
        state, training, learner, lambda: make_engine(learner, training, sum(pool.batch for pool in pools))
    )
    refresh_head(engine, training)
    batches = Batches(pools, objective, seed, embeddings, pad_id, training)
    found = Validations(state, training.validate_measure, training.patience, start)
    writer = _tensorboard(state, start)

    def validate(step: int) -> None:
        """Measure the model of `step`; every process comes to the same numbers."""
        with whole_model(engine, training, shell) as whole:
            scores = validation.measure_model(whole)
        with told_where(state, f"the validation of step {step}"):
            found.add(step, scores, lambda: gathered_tensors(engine, training))
            _tell_validation(found, writer)

    engine.train()
    began, seen = time.perf_counter(), 0
    bar = tqdm(
        range(start, training.steps), desc="train", unit="step", disable=None, initial=start, total=training.steps
    )
    with Termination() as termination:
        for step in bar:
            if validation and validation.due(step, training.steps):
                paused = time.perf_counter()
                validate(step)
                began += time.perf_counter() - paused  # samples a second are those of training
                if found.exhausted:
                    break
            rate = engine.get_lr()[0]  # of this step; after it the schedule has moved on
            for part in range(training.gradient_accumulation):
                micro = step * training.gradient_accumulation + part
                _seed_dropout(seed, micro)
                loss, parts = engine(batches.of(micro, engine.device))
                engine.backward(loss)
                engine.step()
                seen += batches.size * world_size()
            refresh_head(engine, training)
            done = step + 1
            asked = termination.asked_of_any()
            saves = (done % training.save_every == 0 or asked) and done < training.steps
            measured = validation is not None and validation.due(done, training.steps)
            if done % training.log_every == 0 or done == training.steps or saves or measured:
                said = _means(loss, parts)
                _check_finite(engine, said["loss"], done, state)
            if done % training.log_every == 0 or done == training.steps:
                speed = seen / (time.perf_counter() - began)
                with told_where(state, f"the metrics of step {done}"):
                    _log(state, writer, bar, rate, done, said, speed, training.steps)
            if saves:
                save(engine, state, done, training)
                if is_first_process():
                    found.drop_older()
            if asked and done < training.steps:
                raise Interrupted(f"ended at step {done} by SIGTERM; its state is kept: run the same again to go on")
        else:
            if validation:
                validate(training.steps)
    if writer:
        with told_where(state, "the metrics"):
            writer.close()
    if not found.lines:
        return gathered_tensors(engine, training)
    return found.model() if is_first_process() else {}


def _seed_dropout(seed: int, micro: int) -> None:
    """Random numbers inside the model (dropout of a pretrained language model) are a function of the micro-step and the rank."""
    torch.manual_seed(int(np.random.SeedSequence([seed, 4, micro, rank()]).generate_state(1)[0]))


class Batches:
    """The batches of every micro-step: a pure function of the seed, the micro-step and the rank."""

    def __init__(
        self, pools, objective: str, seed: int, embeddings: Embeddings, pad_id: int, training: Training
    ) -> None:
        self.pools, self.embeddings, self.pad_id, self.share = pools, embeddings, pad_id, training.share_images
        self.samplers = [
            Sampler(pool.samples.lengths(), pool.batch, (seed, place), rank(), world_size())
            for place, pool in enumerate(pools)
        ]
        # Captions are supervised from their first token on, identifiers from the prompt's word `id` on.
        self.prompt_tokens = 0 if objective == "caption" else 1
        self.size = sum(pool.batch for pool in pools)

    def of(self, micro: int, device: torch.device) -> list[Batch]:
        batches = [
            collate(pool.samples, sampler.rows(micro), self.embeddings, self.pad_id, pool.kind, self.prompt_tokens)
            for pool, sampler in zip(self.pools, self.samplers, strict=True)
        ]
        moved = [batch.to(device) for batch in batches]
        return share_images(moved) if self.share else moved


def choose_trainable(model: nn.Module, training: Training) -> None:
    """Let gradients into the parts that `training.trainable` names, into adapters, and into the atomic head."""
    model.requires_grad_(False)
    attention = model.lang_encoder.gated_cross_attn_layers
    if "language_model" in training.trainable:
        model.lang_encoder.requires_grad_(True)
    if "lora" in training.trainable and not hasattr(model, "atomic_head"):
        # identifiers are written with tokens that no one has trained yet; a class is read off without any
        model.lang_encoder.get_input_embeddings().requires_grad_(True)
        model.lang_encoder.get_output_embeddings().requires_grad_(True)
    attention.requires_grad_("cross_attention" in training.trainable)
    model.perceiver.requires_grad_("perceiver" in training.trainable)
    for adapter in adapters(model):
        adapter.requires_grad_(True)
    if hasattr(model, "atomic_head"):
        model.atomic_head.projection.requires_grad_(True)
        model.atomic_head.log_scale.requires_grad_(True)
        model.atomic_head.classes.requires_grad_(model.atomic_head.train_classes)


def _means(loss: Tensor, parts: dict[str, Tensor]) -> dict[str, float]:
    """The losses of the last micro-step, the mean over the processes."""
    names = ["loss", *(f"loss_{kind}" for kind in parts)]
    values = torch.stack([loss.detach(), *parts.values()]).double()
    return dict(zip(names, over_all(values, "mean").tolist(), strict=True))


def _check_finite(engine: Any, loss: float, step: int, state: TrainingState) -> None:
    """End in words if the loss or the gradient is not finite: every process sees the same numbers, so all end."""
    norm = engine.get_global_grad_norm()
    values = torch.tensor([loss, float(norm) if norm is not None else 0.0], dtype=torch.float64)
    what = [name for name, value in zip(("loss", "gradient"), values, strict=True) if not torch.isfinite(value)]
    if what:
        tag = state.latest()
        kept = f"the last good state is {state.folder}/{tag}" if tag else "no state had been saved"
        raise GraceError(
            f"the {what[0]} is not finite at step {step}; lower train.learning_rate or gradient_clip ({kept})"
        )


def _tensorboard(state: TrainingState, start: int) -> Any:
    if not is_first_process():
        return None
    need_package("tensorboard", "training")
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(state.folder / "tensorboard"), purge_step=start + 1)


def _tell_validation(found: Validations, writer: Any) -> None:
    if not is_first_process():
        return
    step, scores = found.lines[-1]["step"], {name: value for name, value in found.lines[-1].items() if name != "step"}
    for name, value in scores.items():
        writer.add_scalar(f"val/{name}", value, step)
    told = " ".join(f"{name} {value:.4f}" for name, value in scores.items())
    ends = f"; no better for {found.patience} validations: training ends" if found.exhausted else ""
    print(f"step {step} val {told} (best: step {found.best['step']}){ends}", flush=True)


def _log(state, writer, bar, rate: float, step: int, said: dict[str, float], speed: float, steps: int) -> None:
    if not is_first_process():
        return
    line = {"step": step, **said, "learning_rate": rate, "samples_per_second": round(speed, 1)}
    state.log(line)
    for name, value in line.items():
        if name != "step":
            writer.add_scalar(name, value, step)
    bar.set_postfix(loss=f"{line['loss']:.3f}", samples_s=f"{speed:.0f}")
    if bar.disable and (step * 10) // steps > ((step - 1) * 10) // steps:
        print(f"step {step}/{steps} loss {line['loss']:.4f} samples/s {speed:.0f}", flush=True)
