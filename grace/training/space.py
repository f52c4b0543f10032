"""Whether a training fits on the disk, before its first step: its resumable states, the models it keeps, and the model it writes.

`python -m grace plan` states the same sizes without a model.
"""

from __future__ import annotations

from pathlib import Path

from torch import nn

from grace.system.files import check_space
from grace.training.parameters import Parameters, count_parameters
from grace.workflow.config import Training

BESIDE_NUMBERS = 0.02
"""Upper bound on the share of a state's files that is not numbers: names, shapes, the optimizer's settings."""


def check_training_fits(learner: nn.Module, training: Training, folder: Path, output: Path | None = None) -> None:
    """Raise a `GraceError` unless the disks of `folder` (the state's, which exists) and `output` have room for the training.

    `learner` has its trainable parts chosen. What `folder` already holds of a training that is resumed counts as available.
    """
    parameters = count_parameters(learner, 0)
    one, model, count = state(parameters, training), model_file(parameters, training), standing_states(training)
    needed = training_in_progress(parameters, training)
    places = f"{count} state{'s' if count > 1 else ''} of {one / 1e9:.2f} GB"
    places += f" and two models of {model / 1e9:.2f} GB" if training.validate_every else ""
    beside = None if output is None else _existing(output)
    if beside is not None and beside.stat().st_dev == folder.stat().st_dev:
        # When the model is written, all states are still there but the one that would have been next.
        needed, places = max(needed, needed - one + model), f"{places}, later the model"
    elif beside is not None:
        check_space(beside, model, "the model of the training")
    held = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    check_space(folder, max(0, round(needed * (1 + BESIDE_NUMBERS)) - held), f"the training ({places})")


def training_in_progress(parameters: Parameters, training: Training) -> int:
    """Most bytes in the folder of a training's state: resumable states, and with validation the models that are kept."""
    states = standing_states(training) * state(parameters, training)
    # The best model so far, and the best at the newest state, from which an interrupted training resumes.
    return states + (2 * model_file(parameters, training) if training.validate_every else 0)


def standing_states(training: Training) -> int:
    """Most resumable states at a time: a new one is written before an old one is deleted; an interrupted training writes one."""
    saves = (training.steps - 1) // training.save_every
    return min(training.keep_states, saves) + 1


def model_file(parameters: Parameters, training: Training) -> int:
    """Bytes of model.safetensors: every parameter in the precision of training, the atomic head in fp32."""
    width = _width(training)
    return width * parameters.in_training + (4 - width) * parameters.atomic_head


def state(parameters: Parameters, training: Training) -> int:
    """Bytes of one resumable state over all processes: weights, fp32 master weights under ZeRO, and moments.

    Under ZeRO 3 trained weights are in it as master weights alone.
    """
    width, zero = _width(training), training.zero_stage > 0 or training.precision == "bf16"
    stored = parameters.in_training - (parameters.trained if training.zero_stage == 3 else 0)
    weights = width * stored + (4 - width) * parameters.atomic_head
    return weights + (12 if zero else 8) * parameters.trained


def _width(training: Training) -> int:
    return 2 if training.precision == "bf16" else 4


def _existing(path: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    path = path.resolve()
    return next(place for place in (path, *path.parents) if place.is_dir())
