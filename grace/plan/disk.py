"""Disk that a configuration needs: what the stages keep, and what a training in progress keeps on top.

Text, identifiers, tries and runs are left out: megabytes. A training asks `training_in_progress` before its first step.
"""

from __future__ import annotations

from grace.plan.known import TowerShape
from grace.training.parameters import Parameters
from grace.training.space import model_file, training_in_progress
from grace.workflow.config import Config


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
