"""What a training says while it runs: `metrics.jsonl` and `tensorboard/` in its state folder, and a bar or lines on the terminal.

The first process says it; the others say nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from grace.system.packaged import need_package
from grace.system.progress import progress, say
from grace.training.processes import is_first_process
from grace.training.state import TrainingState
from grace.training.validation_results import ValidationResults


class Progress:
    """Make it when the first step is about to begin; `done` of `steps` steps were made by an earlier run."""

    def __init__(self, state: TrainingState, done: int, steps: int) -> None:
        self.state, self.steps = state, steps
        self._writer = _tensorboard(state, done)
        self._open = ExitStack()
        bar = progress(total=steps, done=done, desc="train", unit="steps", shown=is_first_process())
        self._bar = self._open.enter_context(bar)
        self._samples, self._began = 0, time.perf_counter()

    def count(self, samples: int) -> None:
        """One more step is made, of `samples` samples over all processes."""
        self._samples += samples
        self._bar.update()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time in here does not count: samples per second are those of training."""
        began = time.perf_counter()
        yield
        self._began += time.perf_counter() - began

    def log(self, step: int, losses: dict[str, float], rate: float) -> None:
        """Log the losses (nats) and the learning rate of `step`."""
        if self._writer is None:
            return
        speed = self._samples / (time.perf_counter() - self._began)
        line = {"step": step, **losses, "learning_rate": rate, "samples_per_second": round(speed, 1)}
        self.state.log(line)
        for name, value in line.items():
            if name != "step":
                self._writer.add_scalar(name, value, step)
        self._bar.set_postfix(loss=f"{line['loss']:.3f}", samples_s=f"{speed:.0f}")

    def log_validation(self, results: ValidationResults) -> None:
        """Log the newest validation."""
        if self._writer is None:
            return
        line = dict(results.lines[-1])
        step = line.pop("step")
        for name, value in line.items():
            self._writer.add_scalar(f"val/{name}", value, step)
        told = " ".join(f"{name} {value:.4f}" for name, value in line.items())
        ends = f"; no better for {results.patience} validations: training ends" if results.exhausted else ""
        say(f"step {step} val {told} (best: step {results.best['step']}){ends}")

    @contextmanager
    def ended_on_error(self) -> Iterator[None]:
        """End the bar or the lines if what is in here fails: their thread would go on telling of a training that has ended."""
        try:
            yield
        except BaseException:
            self._open.close()
            raise

    def close(self) -> None:
        """End the bar or the lines, and write out what is logged; an `OSError` where the disk is full."""
        self._open.close()
        if self._writer is not None:
            self._writer.close()


def _tensorboard(state: TrainingState, done: int) -> Any:
    if not is_first_process():
        return None
    need_package("tensorboard", "training")
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(state.folder / "tensorboard"), purge_step=done + 1)
