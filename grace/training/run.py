"""From a `Job` to its model folder, for the stages `train` and `captioner`.

Writes `model.safetensors`, `config.json`, the tokenizer, `README.md` (the model card), `metrics.jsonl`, `tensorboard/`, and
`validation.jsonl` if the training is validated. The resumable state lives in its own folder, which is deleted when the model is
complete: a rerun after a kill resumes, a forced rerun starts from scratch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from grace.data.tables import DatasetTables
from grace.model.checkpoints import save_model
from grace.model.language_models import describe
from grace.records.provenance import provenance
from grace.system.files import check_output_folder, need, read_json, replacing_folder
from grace.system.progress import say
from grace.training.card import model_card
from grace.training.job import Job
from grace.training.processes import is_first_process, world_size
from grace.training.resume import told_where
from grace.training.state import TrainingState
from grace.training.trainer import Trainer


def run(job: Job) -> None:
    """Train `job`, resumed from its state folder if that holds an unfinished run of it, and write its model folder.

    Every process of a distributed run calls this. Raises a `GraceError` where the output folder exists and is not this stage's,
    another training uses the state, or the disk lacks room, and for what ends a training early (see `grace.training.trainer`).
    """
    config = dict(job.config)
    if config["flamingo"]["language_model"] == "pretrained":  # the folder is to load where no hub can be reached
        config["language_model"] = describe(job.model.lang_encoder)
    check_output_folder(job.output, job.stage)
    if is_first_process():
        say(_about(job))
    with TrainingState(job.state, job.fingerprint()) as state:
        trainer = Trainer(job, state)
        tensors = trainer.train()
        if is_first_process():
            with told_where(state, "the model", folder=job.output.resolve().parent):
                _write(job, config, trainer, tensors)
            state.finish()


def _about(job: Job) -> str:
    """What the training begins with: samples by kind, batches, steps, processes, parameters, device."""
    pools = ", ".join(f"{len(pool.samples):,} {pool.kind} samples ({pool.batch} per batch)" for pool in job.pools)
    parameters = sum(value.numel() for value in job.model.parameters()) / 1e6
    device = f"{world_size()} GPU(s)" if torch.cuda.is_available() else f"cpu, {world_size()} process(es)"
    return f"{pools}; {job.training.steps:,} steps; {parameters:,.1f} M parameters; {device}"


def _write(job: Job, config: dict[str, Any], trainer: Trainer, tensors: dict[str, Tensor]) -> None:
    with replacing_folder(job.output, job.stage) as folder:
        config = {
            **config,
            "validation": trainer.results.export(folder),
            "processes": world_size(),
            "provenance": provenance(job.training.model_dump()),
        }
        save_model(folder, tensors, config, job.words)
        trainer.state.export_logs(folder)
        (folder / "README.md").write_text(model_card(config, job.training, tensors), encoding="utf-8")


def about(tables: DatasetTables, embeddings: Path) -> dict[str, Any]:
    """What config.json says of what a model has seen: the data set, and the frozen tower, named by its weights' hash."""
    said = read_json(need(embeddings / "encode.json", "encode.json"))
    summary = {key: tables.summary.get(key) for key in ("name", "license", "counts")}
    return {"dataset": summary, "vision_tower": said.get("tower")}
