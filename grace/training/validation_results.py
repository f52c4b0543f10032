"""What the validations of one training found, in its state folder.

`validation.jsonl` has a line with the step and its scores (fractions) for each; `best/step{n}.safetensors` is the best model.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from grace.system.files import replacing
from grace.system.weights import save_weights
from grace.training.processes import is_first_process
from grace.training.state import TrainingState


class ValidationResults:
    """All processes hold the same lines; the first one writes them."""

    def __init__(self, state: TrainingState, measure: str, patience: int = 0, start: int | None = None) -> None:
        """Start with the validations of an earlier run of the same training before step `start` (None: all)."""
        self.folder, self.measure, self.patience = state.folder, measure, patience
        self.file = state.folder / "validation.jsonl"
        said = self.file.read_text(encoding="utf-8").splitlines() if self.file.exists() else []
        lines = [json.loads(line) for line in said]
        self.lines = [line for line in lines if start is None or line["step"] < start]
        self.saved = self.best["step"] if self.best else None  # the best at the newest resumable state

    @property
    def best(self) -> dict[str, float] | None:
        """The line of the best model; of equal ones the first."""
        return max(self.lines, key=lambda line: line[self.measure], default=None)

    @property
    def exhausted(self) -> bool:
        """Whether the last `patience` validations were no better than the best before them."""
        best = self.best
        return bool(best and self.patience and len(self.lines) - 1 - self.lines.index(best) >= self.patience)

    def add(self, step: int, scores: dict[str, float], tensors: Callable[[], dict[str, Tensor]]) -> None:
        """Record a validation; if it is the best so far, keep the model (`tensors` gathers it, in every process).

        Of earlier best models the one at the newest resumable state is kept, for a training that is interrupted and resumed.
        """
        self.lines.append({"step": step, **scores})
        best = self.best
        if best is self.lines[-1]:
            gathered = tensors()
            if is_first_process():
                (self.folder / "best").mkdir(exist_ok=True)
                self._drop_all_but(self.saved)
                save_weights(self.model_file(step), gathered)
        if is_first_process():
            with replacing(self.file) as temporary:
                temporary.write_text("".join(json.dumps(line) + "\n" for line in self.lines), encoding="utf-8")

    def model_file(self, step: float) -> Path:
        """Where the model of `step` is kept if it is the best."""
        return self.folder / "best" / f"step{step:.0f}.safetensors"

    def drop_older(self) -> None:
        """Delete former best models: the newest resumable state has a better one."""
        self.saved = self.best["step"] if self.best else None
        self._drop_all_but(self.saved)

    def _drop_all_but(self, step: float | None) -> None:
        for path in (self.folder / "best").glob("*"):
            if step is None or path != self.model_file(step):
                path.unlink()

    def model(self) -> dict[str, Tensor]:
        """The tensors of the best model."""
        return load_file(self.model_file(self.best["step"]))

    def export(self, folder: Path) -> dict[str, Any] | None:
        """Copy the lines into a model folder; returns the best one with its measure and the number of lines (None: no line)."""
        if not self.lines:
            return None
        shutil.copy(self.file, folder / "validation.jsonl")
        return {"measure": self.measure, **self.best, "validations": len(self.lines)}
