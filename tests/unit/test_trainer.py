"""The training loop around an engine that is plain PyTorch: what it does at which step, against a schedule by hand.

That losses and models under DeepSpeed are those of a plain loop is tested in tests/distributed.
"""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from grace.identifiers.base import read_tokenizer
from grace.model.batches import Samples
from grace.model.flamingo import build
from grace.model.prompts import Prompts
from grace.system.errors import GraceError, Interrupted
from grace.towers.embeddings import Embeddings
from grace.training import trainer as module
from grace.training.deepspeed_engine import learning_rate_factor
from grace.training.job import Job
from grace.training.pools import Pool
from grace.training.state import TrainingState
from grace.training.trainer import Trainer
from grace.training.validation import Validation
from grace.workflow.config import Flamingo, ScratchLanguageModel, Training


class PlainEngine:
    """One process in fp32: the calls of a DeepSpeed engine that the loop makes."""

    device = torch.device("cpu")

    def __init__(self, learner: torch.nn.Module, training: Training) -> None:
        self.module, self.training, self.micro = learner, training, 0
        trained = [value for value in learner.parameters() if value.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=training.learning_rate)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda s: learning_rate_factor(s, training))

    def __call__(self, batches):
        return self.module(batches)

    def train(self) -> None:
        self.module.train()

    def get_lr(self) -> list[float]:
        return self.schedule.get_last_lr()

    def get_global_grad_norm(self) -> float:
        return 1.0

    def backward(self, loss: torch.Tensor) -> None:
        (loss / self.training.gradient_accumulation).backward()

    def step(self) -> None:
        self.micro += 1
        if self.micro % self.training.gradient_accumulation == 0:
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.schedule.step()


@pytest.fixture
def world(tokenizer_folder, tmp_path, monkeypatch):
    """A function that trains a small model and gives the trainer, or the error; `events`: what it did, in order."""
    words = read_tokenizer(tokenizer_folder)
    prompts = Prompts(words)
    rng = np.random.default_rng(0)
    vectors = Embeddings(
        rng.normal(size=(9, 8)).astype("f4"), rng.normal(size=(9, 4, 16)).astype("f2"), np.zeros((1, 4, 16), "f2")
    )
    samples = Samples(
        [prompts.memorize("numeric")] * 9, prompts.identifier_targets([[5 + row] for row in range(9)]), np.arange(9),
        np.empty(0, dtype=np.int64),
    )  # fmt: skip
    events: list[str] = []

    def run(scores=None, start: int = 0, stop_at: int | None = None, poison_at: int | None = None, **keys):
        training = Training(**{"learning_rate": 1e-3, "warmup_steps": 0, "save_every": 100, "log_every": 100, **keys})
        scratch = ScratchLanguageModel(width=32, layers=2, heads=2, max_length=96)
        model = build(Flamingo(scratch=scratch, perceiver_latents=3), words, visual_width=16)
        given = iter(scores or [])

        def search(whole, asked, query_ids):
            assert not whole.training
            return {"q": [("im0", 0.0)] if next(given) else [("im1", 0.0)]}

        asks = Validation([[3]], ["q"], ["im0"], search, training.validate_every, training.patience, "R@1")
        job = Job(
            stage="train", model=model, pools=[Pool("memorize", samples, 3)], objective="generate", seed=0,
            embeddings=vectors, words=words, training=training, output=tmp_path / "model", state=tmp_path / "state",
            validation=asks if training.validate_every else None,
        )  # fmt: skip

        def resume(state, settings, learner, make_engine):
            engine = PlainEngine(learner, settings)
            for _ in range(start):
                engine.schedule.step()
            return engine, start

        def saved(engine, state, step: int, settings) -> None:
            events.append(f"save {step}")

        monkeypatch.setattr(module, "resume", resume)
        monkeypatch.setattr(module, "save", saved)

        class Told(Trainer):
            def step(self):
                if self.done == stop_at:
                    os.kill(os.getpid(), signal.SIGTERM)
                made = super().step()
                events.append(f"step {self.done}")
                return module.Step(made.rate, made.loss * np.nan, made.parts) if self.done == poison_at else made

            def validate(self):
                super().validate()
                events.append(f"validate {self.done}")

        monkeypatch.setattr("grace.training.signals.mark_cancelled", lambda: None)
        with TrainingState(job.state, "key") as state:
            trainer = Told(job, state)
            trainer.tensors = trainer.train()
        return trainer

    run.events, run.folder = events, tmp_path / "state"
    return run


def logged(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_what_is_due_at_which_step(world) -> None:
    """A state is saved before its model is measured; the last step is logged and measured, and not saved."""
    world(scores=[0, 1, 0], steps=7, save_every=3, log_every=2, validate_every=3)
    third, sixth = (["save 3", "validate 3"], ["save 6", "validate 6"])
    steps = [f"step {step}" for step in range(1, 8)]
    assert world.events == [*steps[:3], *third, *steps[3:6], *sixth, steps[6], "validate 7"]
    assert logged(world.folder) == [2, 4, 6, 7]


def test_a_resumed_training_first_measures_the_model_it_starts_from(world) -> None:
    world(scores=[1, 1], start=4, steps=6, validate_every=4)
    assert world.events == ["validate 4", "step 5", "step 6", "validate 6"]
    assert logged(world.folder) == [6]


def test_the_best_model_is_what_comes_out_and_patience_ends_the_training(world) -> None:
    found = world(scores=[0, 1, 1, 0, 1, 1], steps=9, validate_every=1, patience=2, schedule="constant")
    assert world.events[-2:] == ["step 4", "validate 4"] and found.results.best["step"] == 2
    two, four = (world(steps=steps, schedule="constant").tensors for steps in (2, 4))
    assert set(found.tensors) == set(two) and all(
        torch.equal(value, two[name]) for name, value in found.tensors.items()
    )
    assert not all(torch.equal(value, two[name]) for name, value in four.items()), "a step changes nothing"


def test_sigterm_saves_the_step_and_ends_in_words(world) -> None:
    with pytest.raises(Interrupted, match="ended at step 3 by SIGTERM"):
        world(scores=[1], steps=9, validate_every=3, stop_at=2)
    assert world.events == ["step 1", "step 2", "step 3", "save 3"]
    world.events.clear()
    world(steps=3, stop_at=2)  # at the last step there is nothing left to save
    assert world.events == ["step 1", "step 2", "step 3"]


@pytest.mark.parametrize(
    ("keys", "told"), [({"log_every": 5}, 5), ({"save_every": 4}, 4), ({"validate_every": 3}, 3), ({}, 8)]
)
def test_no_step_that_is_not_finite_is_logged_saved_or_measured(world, keys, told) -> None:
    with pytest.raises(GraceError, match=rf"the loss is not finite at step {told}; .*no state had been saved"):
        world(steps=8, poison_at=told, **keys)
    assert world.events == [f"step {step}" for step in range(1, told + 1)]
    assert not (world.folder / "metrics.jsonl").exists()


def test_the_losses_are_those_of_a_loop_by_hand(world) -> None:
    trainer = world(steps=4, log_every=1, gradient_accumulation=2, learning_rate=1e-2)
    lines = [json.loads(line) for line in (world.folder / "metrics.jsonl").read_text().splitlines()]
    scratch = ScratchLanguageModel(width=32, layers=2, heads=2, max_length=96)
    model = build(Flamingo(scratch=scratch, perceiver_latents=3), trainer.job.words, visual_width=16)
    module.prepare_parameters(model, trainer.training, 0)
    learner = module.Learner(model, "generate").train()
    trained = [value for value in learner.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    for step, line in enumerate(lines):
        rate = 1e-2 * learning_rate_factor(step, trainer.training)
        assert line["learning_rate"] == pytest.approx(rate)
        for group in optimizer.param_groups:
            group["lr"] = rate
        for micro in (2 * step, 2 * step + 1):
            loss, _ = learner(trainer.batches.of(micro, torch.device("cpu")))
            (loss / 2).backward()
        optimizer.step()
        optimizer.zero_grad()
        assert line["loss"] == pytest.approx(loss.item(), rel=1e-5) == line["loss_memorize"]
    assert lines[0]["loss"] - lines[-1]["loss"] > 0.1
    assert all(torch.allclose(value, trainer.tensors[name], atol=1e-5) for name, value in model.named_parameters())
