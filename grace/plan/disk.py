"""Disk that a configuration needs: what the stages keep, and what a training in progress keeps on top.

Text, identifiers, tries and runs are left out: megabytes.
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
    states = (config.train.keep_states + 1) * state(parameters, config.train)
    if config.train.validate_every:
        states += 2 * model_file(parameters, config.train)  # the best model so far, and its successor before it goes
    return {
        "image embeddings (f32)": 4 * images * tower.embedding,
        "visual tokens (f16)": 2 * images * tower.tokens * tower.width,
        "models": models,
        "training states": states,
    }


def model_file(parameters: Parameters, training: Training) -> int:
    """Bytes of model.safetensors: every parameter in the precision of training."""
    return (2 if training.precision == "bf16" else 4) * parameters.in_training


def state(parameters: Parameters, training: Training) -> int:
    """Bytes of one resumable state over all processes: weights, fp32 master weights under ZeRO, and moments.

    A new state is written before an old one is deleted, so there is room for one more than `keep_states`.
    """
    zero = training.zero_stage > 0 or training.precision == "bf16"
    weights = (2 if training.precision == "bf16" else 4) * parameters.in_training
    return weights + (12 if zero else 8) * parameters.trained
