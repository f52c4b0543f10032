"""Disk that a configuration needs: what the stages keep, and what a training in progress keeps on top.

Text, identifiers, tries and runs are left out: megabytes. A training asks `training_in_progress` before its first step.
"""

from __future__ import annotations

from grace.config import Config, Training
from grace.plan.known import TowerShape
from grace.plan.parameters import Parameters


def disk(config: Config, tower: TowerShape, images: int, parameters: Parameters, trainings: int) -> dict[str, int]:
    """Bytes by what they are; `trainings`: model folders of schemes and seeds. One training is in progress at a time."""
    models = trainings * model_file(parameters, config.train)
    if config.captioner_is_read:
        models += model_file(parameters, config.captioner)
    return {
        "image embeddings (f32)": 4 * images * tower.embedding,
        "visual tokens (f16)": 2 * images * tower.tokens * tower.width,
        "models": models,
        "training states": training_in_progress(parameters, config.train),
    }


def training_in_progress(parameters: Parameters, training: Training) -> int:
    """Most bytes in the folder of a training's state: resumable states, and with validation the models that are kept."""
    states = standing_states(training) * state(parameters, training)
    # The best model so far, and the best at the newest state, from which a training that is broken off goes on.
    return states + (2 * model_file(parameters, training) if training.validate_every else 0)


def standing_states(training: Training) -> int:
    """Most resumable states at a time: a new one is written before an old one is deleted, and one when it is broken off."""
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
