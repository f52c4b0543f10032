"""Saving a resumable state, and resuming from it.

With the same number of processes this is exact: parameters, optimizer, schedule; the batches are a function of the step. With
another number DeepSpeed cannot read its own ZeRO shards; `train.resume: weights` then restores the weights and the schedule, and
the optimizer starts from scratch.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from grace.system.errors import GraceError
from grace.system.files import read_json, write_json
from grace.training.deepspeed_engine import effective_stage, learning_rate_factor
from grace.training.processes import is_first_process, wait_for_all, world_size
from grace.training.safe_state import loading_tensors_only, write_stages_as_numbers
from grace.training.state import TrainingState
from grace.workflow.config import Training

ABOUT = "about.json"  # in every state: its step, number of processes and ZeRO stage


def save(engine: Any, state: TrainingState, step: int, training: Training) -> None:
    """Save the state of `step` and delete all but the newest `training.keep_states`.

    A state is valid once `latest` names it, which happens last: a full disk costs the new state, not the old one.
    """
    tag = f"step{step}"
    with told_where(state, f"the state of step {step}", tag):
        write_stages_as_numbers()
        engine.save_checkpoint(str(state.folder), tag=tag, save_latest=False)
        wait_for_all()
        if is_first_process():
            about = {"step": step, "world_size": world_size(), "zero_stage": effective_stage(training)}
            write_json(state.folder / tag / ABOUT, about)
            state.declare_latest(tag)
            state.keep_newest(training.keep_states)
        wait_for_all()  # a process that left early would have its launcher end the others before the state is valid


@contextmanager
def told_where(state: TrainingState, what: str, tag: str | None = None, folder: Path | None = None) -> Iterator[None]:
    """Turn the error of a full disk into a `GraceError` that names the last good state; an incomplete state `tag` is deleted.

    `what` is written to `folder` (None: the state's folder). Other errors pass.
    """
    try:
        yield
    except Exception as error:
        if not _of_the_disk(error):
            raise
        kept = state.latest()
        if tag and tag != kept:
            shutil.rmtree(state.folder / tag, ignore_errors=True)
        folder = folder or state.folder
        said = f"the state of {kept} is kept, run again to resume from there" if kept else "no state was saved before"
        free = shutil.disk_usage(folder if folder.exists() else state.folder).free / 2**30
        raise GraceError(
            f"{what} cannot be written to {folder} ({str(error).strip().splitlines()[0]}; "
            f"{free:.1f} GiB are free there now); free some space: {said}"
        ) from None


def _of_the_disk(error: Exception) -> bool:
    """Whether an error is the file system's: torch and tokenizers report a full disk by exceptions of their own."""
    torch_writer = isinstance(error, RuntimeError) and "inline_container" in str(error)
    return torch_writer or isinstance(error, OSError | SafetensorError) or "(os error 28)" in str(error)


def resume(
    state: TrainingState, training: Training, learner: nn.Module, make_engine: Callable[[], Any]
) -> tuple[Any, int]:
    """The engine, restored from the newest complete state if there is one, and the number of steps already made.

    Raises a `GraceError` where the state cannot be read, or `train.resume` is exact and the state is of another number of
    processes or ZeRO stage.
    """
    tag = state.latest()
    if tag is None:
        if is_first_process():  # left by a run that ended before its first state
            state.metrics_until(0)
        return make_engine(), 0
    about = read_json(state.folder / tag / ABOUT, "description of the training state")
    same = about["world_size"] == world_size() and about["zero_stage"] == effective_stage(training)
    if not same and training.resume == "exact":
        raise GraceError(
            f"the state in {state.folder} is of {about['world_size']} processes (ZeRO {about['zero_stage']}), this run has "
            f"{world_size()} (ZeRO {effective_stage(training)}); run with as many, set train.resume: weights to keep the "
            "weights and start the optimizer from scratch, or delete the folder to train from scratch"
        )
    if same:
        engine = make_engine()
        with loading_tensors_only():
            path, _ = engine.load_checkpoint(str(state.folder), tag=tag)
        if path is None:
            raise GraceError(f"the state {state.folder}/{tag} is incomplete; delete that folder to train from scratch")
    else:
        load_weights_of(state.folder, tag, about["zero_stage"], learner)
        engine = make_engine()
        _advance_schedule(engine, about["step"], training)
    if is_first_process():
        how = (
            "" if same else " with its weights only: the optimizer starts from scratch, and the order of samples is new"
        )
        print(f"resuming from step {about['step']} in {state.folder}{how}", flush=True)
        state.metrics_until(about["step"])
    return engine, about["step"]


def load_weights_of(folder: Path, tag: str, zero_stage: int, learner: nn.Module) -> None:
    """Load the weights of a state of any number of processes into `learner`; names and shapes must match."""
    tensors = _weights_of(folder, tag, zero_stage)
    targets = dict(learner.named_parameters())
    missing = sorted(set(targets) - set(tensors))
    if missing:
        raise GraceError(
            f"the state {folder}/{tag} lacks {missing[0]} and {len(missing) - 1} more; delete it to train from scratch"
        )
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(tensors[name].view_as(target))


def _weights_of(folder: Path, tag: str, zero_stage: int) -> dict[str, Tensor]:
    """Every weight of a state by its name in the learner; of ZeRO 2 and 3 the fp32 master weights."""
    with loading_tensors_only():
        if zero_stage == 0:
            path = folder / tag / "mp_rank_00_model_states.pt"
            return torch.load(path, map_location="cpu", weights_only=True)["module"]
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

        return get_fp32_state_dict_from_zero_checkpoint(str(folder), tag)


def _advance_schedule(engine: Any, step: int, training: Training) -> None:
    """Set the learning rates of `step`, as in an uninterrupted run."""
    scheduler = engine.lr_scheduler
    scheduler.last_epoch = step
    rates = [base * learning_rate_factor(step, training) for base in scheduler.base_lrs]
    scheduler._last_lr = rates
    for group, rate in zip(engine.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
