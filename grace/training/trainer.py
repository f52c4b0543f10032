"""The training loop: steps, log, validations, resumable states, and how it ends.

It ends when all steps are made, or when validations have stopped improving; with `Interrupted` after SIGTERM, once the state is
saved; or with a `GraceError` when the loss is not finite or the disk is full, with the last good state kept. The processes decide
together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from grace.system.errors import GraceError, Interrupted
from grace.training.deepspeed_engine import make_engine
from grace.training.job import Job
from grace.training.learner import Learner, prepare_parameters
from grace.training.master_weights import refresh_head
from grace.training.model_in_training import ModelInTraining
from grace.training.processes import is_first_process, over_all, rank, world_size
from grace.training.progress import Progress
from grace.training.resume import resume, save, told_where
from grace.training.sampler import Batches
from grace.training.signals import Termination
from grace.training.space import check_training_fits
from grace.training.state import TrainingState
from grace.training.validation_results import ValidationResults


@dataclass(frozen=True)
class Step:
    """What one step of the optimizer gave in this process."""

    rate: float  # its learning rate
    loss: Tensor  # of its last micro-batch: the mean over all terms, nats, a scalar
    parts: dict[str, Tensor]  # the same for each kind of samples


class Trainer:
    """One training: `job` from its first step, or from the newest state in `state`, to its end. All processes make one."""

    def __init__(self, job: Job, state: TrainingState) -> None:
        """Raise a `GraceError` if the disk has no room for the states and the model, before anything is written."""
        self.job, self.training, self.state = job, job.training, state
        prepare_parameters(job.model, job.training, job.seed)
        self.model = ModelInTraining(job.model, job.training, validated=job.validation is not None)
        learner = Learner(job.model, job.objective, job.training.loss_chunk, job.teacher)
        if is_first_process():
            check_training_fits(learner, job.training, state.folder, job.output)
        pad = job.words.pad_token_id
        self.batches = Batches(job.pools, job.objective, job.seed, job.embeddings, pad, job.training)
        self.engine, self.done = resume(
            state, job.training, learner, lambda: make_engine(learner, job.training, self.batches.size)
        )
        refresh_head(self.engine, job.training)
        self.results = ValidationResults(state, job.training.validate_measure, job.training.patience, self.done)
        self.progress = Progress(state, self.done, job.training.steps)

    def train(self) -> dict[str, Tensor]:
        """Train to the end; the model's tensors on the CPU in the first process (others: empty).

        If the training is validated they are those of its best model.
        """
        self.engine.train()
        with self.progress.ended_on_error(), self.model.recomputed(), Termination() as termination:
            while self._goes_on():
                step = self.step()
                asked = termination.asked_of_any()
                unfinished = self.done < self.training.steps
                saves = unfinished and (asked or self.done % self.training.save_every == 0)
                self.log(step, checked=saves)
                if saves:
                    self.save()
                if asked and unfinished:
                    raise Interrupted(
                        f"ended at step {self.done} by SIGTERM; its state is kept: run the same again to resume"
                    )
        with told_where(self.state, "the metrics"):
            self.progress.close()
        if self.results.best is None:
            return self.model.tensors()
        return self.results.model() if is_first_process() else {}

    def step(self) -> Step:
        """One step of the optimizer, over `gradient_accumulation` micro-batches."""
        parts = self.training.gradient_accumulation
        rate = self.engine.get_lr()[0]  # of this step; after it the schedule has moved on
        for micro in range(self.done * parts, (self.done + 1) * parts):
            _seed_dropout(self.job.seed, micro)
            loss, kinds = self.engine(self.batches.of(micro, self.engine.device))
            self.engine.backward(loss)
            self.engine.step()
        refresh_head(self.engine, self.training)
        self.done += 1
        self.progress.count(self.batches.size * world_size() * parts)
        return Step(rate, loss.detach(), kinds)

    def log(self, step: Step, checked: bool = False) -> None:
        """Log the step that was just made, if that is due.

        Raise a `GraceError` if it is not finite and about to be logged, validated or (`checked`) saved.
        """
        logged = self.done % self.training.log_every == 0 or self.done == self.training.steps
        if not (logged or checked or self._is_measured()):
            return
        losses = _means(step)
        self._check_finite(losses["loss"])
        if logged:
            with told_where(self.state, f"the metrics of step {self.done}"):
                self.progress.log(self.done, losses, step.rate)

    def validate(self) -> None:
        """Measure the current model, and keep it if it is the best; all processes arrive at the same numbers."""
        with self.progress.paused():
            with self.model.whole() as whole:
                scores = self.job.validation.measure_model(whole)
            with told_where(self.state, f"the validation of step {self.done}"):
                self.results.add(self.done, scores, self.model.tensors)
                self.progress.log_validation(self.results)

    def save(self) -> None:
        """Save the resumable state; delete older ones, and models that only an older state would have needed."""
        save(self.engine, self.state, self.done, self.training)
        if is_first_process():
            self.results.drop_older()

    def _goes_on(self) -> bool:
        """Whether to make another step; a validation that is due comes first."""
        if self._is_measured():
            self.validate()
            if self.results.exhausted:
                return False
        return self.done < self.training.steps

    def _is_measured(self) -> bool:
        validation = self.job.validation
        return validation is not None and validation.due(self.done, self.training.steps)

    def _check_finite(self, loss: float) -> None:
        """Raise a `GraceError` if the loss or the gradient is not finite: all processes see the same numbers, so all end."""
        norm = self.engine.get_global_grad_norm()
        values = {"loss": loss, "gradient": float(norm) if norm is not None else 0.0}
        what = [name for name, value in values.items() if not np.isfinite(value)]
        if what:
            tag = self.state.latest()
            kept = f"the last good state is {self.state.folder}/{tag}" if tag else "no state had been saved"
            raise GraceError(
                f"the {what[0]} is not finite at step {self.done}; lower train.learning_rate or gradient_clip ({kept})"
            )


def _seed_dropout(seed: int, micro: int) -> None:
    """Random numbers inside the model (dropout of a pretrained language model) depend on the micro-step and the rank alone."""
    torch.manual_seed(int(np.random.SeedSequence([seed, 4, micro, rank()]).generate_state(1)[0]))


def _means(step: Step) -> dict[str, float]:
    """The losses of a step, the mean over the processes."""
    names = ["loss", *(f"loss_{kind}" for kind in step.parts)]
    values = torch.stack([step.loss, *step.parts.values()]).double()
    return dict(zip(names, over_all(values, "mean").tolist(), strict=True))
