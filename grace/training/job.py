"""What one training is: the model, what it is trained on and how, and the folders it reads and writes.

The stages `train` and `captioner` make a `Job` each; `grace.training.run.run` trains it and writes the model folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from grace.model.flamingo import GraceFlamingo
from grace.records.sidecars.sidecar import file_digest
from grace.system.files import need
from grace.towers.embeddings import Embeddings
from grace.training.distillation import Teacher
from grace.training.pools import Pool
from grace.training.processes import is_first_process
from grace.training.validation import Validation
from grace.workflow.config import Training
from grace.workflow.stages import STAGES

# Keys of `train` that do not change the result: what is logged and kept, and how a training is resumed and spread over devices.
WITHOUT_EFFECT = ("log_every", "save_every", "keep_states", "resume", "zero_stage", "optimizer_offload")


@dataclass(frozen=True, eq=False)
class Job:
    """One training. The model is changed in place; everything else stays as it is."""

    stage: str  # "train" or "captioner"
    model: GraceFlamingo  # as it is before the first step
    pools: Sequence[Pool]
    objective: str  # a name in grace.training.objectives.OBJECTIVES
    seed: int  # of adapters, batches and dropout
    embeddings: Embeddings
    words: PreTrainedTokenizerFast
    training: Training
    output: Path  # the model folder to be written
    state: Path  # the folder of the resumable state
    config: dict[str, Any] = field(default_factory=dict)  # what config.json says of the model
    settings: Any = None  # plain values that the result depends on; with `inputs` they make the fingerprint
    inputs: Sequence[Path] = ()  # files that the result depends on
    validation: Validation | None = None
    teacher: Teacher | None = None

    def fingerprint(self) -> str:
        """A hex digest of what the result depends on, to which a resumable state belongs: the stage's version, `settings`, and
        the content of `inputs`.

        Empty in all processes but the first, which alone compares it: files may have gigabytes, and shared disks many readers. Of
        files with a provenance record the recorded hash is taken, unless their size or time has changed.
        """
        if not is_first_process():
            return ""
        digests = [file_digest(need(path, "input of the training")) for path in self.inputs]
        said = json.dumps([self.stage, STAGES[self.stage], self.settings, digests])
        return hashlib.sha256(said.encode()).hexdigest()


def settings_with_effect(training: Training) -> dict[str, Any]:
    """The settings of a training that change its result, as plain values."""
    return training.model_dump(exclude=set(WITHOUT_EFFECT))
