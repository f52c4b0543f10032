"""Disk space that a configuration needs: the outputs of the stages, and the states of a training in progress.

Text, identifiers, tries and runs are only megabytes and are ignored. A training calls `training_in_progress` before its first
step.
"""

from __future__ import annotations

from grace.plan.known import TowerShape
from grace.training.parameters import Parameters
from grace.training.space import model_file, training_in_progress
from grace.workflow.config import Config


def disk(config: Config, tower: TowerShape, images: int, parameters: Parameters, trainings: int) -> dict[str, int]:
    """Bytes by kind; `trainings`: number of model folders (schemes times seeds). One training is in progress at a time."""
    models = trainings * model_file(parameters, config.train)
    if config.captioner_is_read:
        models += model_file(parameters, config.captioner)
    return {
        "image embeddings (f32)": 4 * images * tower.embedding,
        "visual tokens (f16)": 2 * images * tower.tokens * tower.width,
        "models": models,
        "training states": training_in_progress(parameters, config.train),
    }
