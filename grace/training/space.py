"""Whether a training fits on the disk, before its first step: its resumable states, the models it keeps, and the model it writes.

The bytes are those of `python -m grace plan` (`grace.plan.disk`), counted on the model itself.
"""

from __future__ import annotations

from pathlib import Path

from torch import nn

from grace.config import Training
from grace.files import check_space
from grace.plan.disk import model_file, standing_states, state, training_in_progress
from grace.plan.parameters import count_parameters

BESIDE_NUMBERS = 0.02
"""Share of a state's size that its files hold beside the numbers, at most: names, shapes, the optimizer's settings."""


def check_training_fits(learner: nn.Module, training: Training, folder: Path, output: Path | None = None) -> None:
    """Raise a `GraceError` unless the disks of `folder` (the state's, which exists) and `output` have room for the training.

    `learner` has its trainable parts chosen. What `folder` holds already, of a training that is gone on with, is not asked for
    again.
    """
    parameters = count_parameters(learner, 0)
    one, model, count = state(parameters, training), model_file(parameters, training), standing_states(training)
    needed = training_in_progress(parameters, training)
    places = f"{count} state{'s' if count > 1 else ''} of {one / 1e9:.2f} GB"
    places += f" and two models of {model / 1e9:.2f} GB" if training.validate_every else ""
    beside = None if output is None else _existing(output)
    if beside is not None and beside.stat().st_dev == folder.stat().st_dev:
        # The model is written when all states but the one that would have been next are still there.
        needed, places = max(needed, needed - one + model), f"{places}, later the model"
    elif beside is not None:
        check_space(beside, model, "the model of the training")
    held = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    check_space(folder, max(0, round(needed * (1 + BESIDE_NUMBERS)) - held), f"the training ({places})")


def _existing(path: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    path = path.resolve()
    return next(place for place in (path, *path.parents) if place.is_dir())
