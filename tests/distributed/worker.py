"""One process of the distributed tests: trains a small Flamingo on made-up samples and writes what it saw.

    torchrun --nproc_per_node 2 tests/distributed/worker.py JOBS.json     # a list of jobs, run one after the other

A job is {"name", "training" (keys of Training), "output" (folder), ...}; see `run_job`.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from grace.identifiers.base import IdentifierTables
from grace.identifiers.tree.stage import tree_of
from grace.model.atomic_head import AtomicHead
from grace.model.batches import PAD_IMAGE, Samples
from grace.model.flamingo import build
from grace.system.errors import GraceError, Interrupted
from grace.system.weights import save_weights
from grace.towers.embeddings import Embeddings
from grace.training.distillation import NONE, Gallery, Teacher
from grace.training.job import Job
from grace.training.pools import Pool
from grace.training.processes import is_first_process, rank, wait_for_all
from grace.training.sampler import Batches
from grace.training.state import TrainingState
from grace.training.trainer import Trainer
from grace.training.validation import GallerySearch, Validation
from grace.workflow.config import Flamingo, ScratchLanguageModel, Training

VOCABULARY, IMAGE, END, PAD = 120, 117, 118, 119


class Words:
    pad_token_id = PAD

    def __len__(self) -> int:
        return VOCABULARY

    def convert_tokens_to_ids(self, token: str) -> int:
        return {"<image>": IMAGE, "<|endofchunk|>": END}[token]


def model(architecture: str = "opt", seed: int = 0, wide: bool = False):
    width = 256 if wide else 32  # wide: the numbers of a state count more than what is said of them
    scratch = ScratchLanguageModel(architecture=architecture, width=width, layers=2, heads=2, max_length=64)
    return build(Flamingo(scratch=scratch, perceiver_latents=3, perceiver_depth=2, seed=seed), Words(), 16)


def embeddings() -> Embeddings:
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(40, 4, 16)).astype("f2")
    return Embeddings(rng.normal(size=(40, 8)).astype("f4"), tokens, rng.normal(size=(1, 4, 16)).astype("f2"))


def pools(memorize: int = 4, retrieve: int = 6, pseudo: int = 2) -> list[Pool]:
    """Memorize, retrieve and pseudo-query samples of 40 images with identifiers of two tokens."""
    rng = np.random.default_rng(1)
    targets = [[100 + row % 10, 110 + row // 10 % 7, END] for row in range(40)]
    none = np.empty(0, dtype=np.int64)
    memorized = Samples([[5, 6, IMAGE, 7]] * 40, targets, np.arange(40), none)
    out = [Pool("memorize", memorized, memorize)]
    for kind, batch in (("retrieve", retrieve), ("pseudo", pseudo)):
        rows = rng.integers(0, 40, size=90)
        prompts = [[3, *rng.integers(10, 99, size=rng.integers(2, 12)).tolist(), IMAGE, 7] for _ in rows]
        samples = Samples(prompts, [targets[row] for row in rows], np.full(90, PAD_IMAGE), none)
        out.append(Pool(kind, samples, batch))
    return [pool for pool in out if pool.batch]


def taught() -> tuple[Teacher, list[Pool]]:
    """A tower that ranks the 40 images for the captions of the pseudo-queries, and the pools with its answers."""
    answers_UD = torch.nn.functional.normalize(torch.from_numpy(embeddings().vectors[::-1].copy()), dim=-1).numpy()
    plain = pools()
    gallery = Gallery(
        images_GD=torch.nn.functional.normalize(torch.from_numpy(embeddings().vectors), dim=-1),
        identifiers_GM=torch.arange(40)[:, None],
        paths_IP=torch.tensor(plain[0].samples.targets),
        caption_I=torch.full((40,), NONE),
    )
    rows = np.arange(90) % 40
    pseudo = replace(plain[2], samples=replace(plain[2].samples, teacher=answers_UD, captions=rows))
    return Teacher(2.0, 0.3, gallery), [*plain[:2], pseudo]


def atomic_model(train_classes: bool = False, wide: bool = False):
    """A model with one class per image; the class matrix and the temperature are no numbers of bf16."""
    made = model(wide=wide)
    torch.manual_seed(3)
    classes = torch.nn.functional.normalize(torch.from_numpy(embeddings().vectors), dim=-1)
    made.atomic_head = AtomicHead(256 if wide else 32, classes, temperature=0.5, train_classes=train_classes)
    return made


def atomic_pools() -> list[Pool]:
    """The samples of `pools`, each with its image for a class."""
    out = []
    for pool in pools():
        labels = np.arange(len(pool.samples)) % 40
        samples = replace(pool.samples, targets=[[]] * len(pool.samples), labels=labels)
        out.append(replace(pool, samples=samples))
    return out


def validation(settings: Training) -> Validation:
    """Texts with their images against all 40 images: what the model is trained on, so that it gets better at it."""
    retrieve = pools()[1].samples
    tokens = [[100 + row % 10, 110 + row // 10 % 7] for row in range(40)]
    table = pd.DataFrame({"image_id": [f"im{row}" for row in range(40)], "split": "test", "tokens": tokens, "text": ""})
    own = {tuple(ids): image for ids, image in zip(tokens, table["image_id"], strict=True)}
    return Validation(
        prompts=retrieve.prompts[:31],  # odd: two processes have different numbers of queries
        query_ids=[f"q{row}" for row in range(31)],
        gold=[own[tuple(target[:2])] for target in retrieve.targets[:31]],
        search=GallerySearch(
            IdentifierTables(Path("."), "numeric", table, [], []), tree_of(table, END), embeddings().visual([PAD_IMAGE])
        ),
        every=settings.validate_every,
        patience=settings.patience,
        measure=settings.validate_measure,
    )


def with_dropout(model):
    """Dropout as pretrained OPT has it: the model that is made here has none."""
    for layer in model.lang_encoder.old_decoder_blocks:
        layer.dropout = 0.3
    return model


def training(**keys) -> Training:
    shared = {"steps": 20, "learning_rate": 3e-3, "warmup_steps": 3, "log_every": 1, "save_every": 1000}
    return Training(**{**shared, **keys})


def run_job(job: dict) -> None:
    """Train as the job says, and write NAME.safetensors and NAME.jsonl, or NAME.error with the words of a `GraceError`.

    `terminate_at`: SIGTERM to the process `terminate_rank` before that micro-step; `poison_at`: visual tokens become NaN;
    `full_at`: no file may grow over 64 KiB from there on, as on a full disk; `leave`: an error ends the process; `rates`: the
    learning rate of every step that AdamW makes goes to NAME.rates.json; `atomic`: "head" or, to train the class matrix too,
    "classes"; `wide`: a larger model.
    """
    folder = Path(job["output"])
    state = folder / job.get("state", f"{job['name']}_state")
    settings = training(**job.get("training", {}))
    try:
        with disturbed(job), TrainingState(state, job.get("key", "test")) as kept:
            asked = the_job(job, settings, folder)
            tensors = Trainer(asked, kept).train()
            if is_first_process():
                save_weights(folder / f"{job['name']}.safetensors", tensors)
                shutil.copy(state / "metrics.jsonl", folder / f"{job['name']}.jsonl")
                if asked.validation:
                    shutil.copy(state / "validation.jsonl", folder / f"{job['name']}.validation.jsonl")
                kept.finish()
    except GraceError as error:
        if is_first_process():
            (folder / f"{job['name']}.error").write_text(f"{type(error).__name__}: {error}")
        if job.get("leave"):  # as the command line does
            sys.exit(75 if isinstance(error, Interrupted) else 2)
    wait_for_all()


def the_job(job: dict, settings: Training, folder: Path) -> Job:
    atomic, wide = job.get("atomic"), job.get("wide", False)
    if atomic:
        made, given = atomic_model(atomic == "classes", wide), (None, atomic_pools())
    else:
        made = with_dropout(model()) if job.get("dropout") else model(wide=wide)
        given = taught() if settings.distillation else (None, pools())
    return Job(
        stage="train", model=made, pools=given[1], objective="classify" if atomic else "generate", seed=0,
        embeddings=embeddings(), words=Words(), training=settings, output=folder / "model", state=folder,
        validation=validation(settings) if settings.validate_every else None, teacher=given[0],
    )  # fmt: skip


@contextmanager
def disturbed(job: dict):
    plain, limits = Batches.of, resource.getrlimit(resource.RLIMIT_FSIZE)
    adam, rates = torch.optim.AdamW.step, []

    def step(self, *args, **kwargs):
        rates.append({group["lr"] for group in self.param_groups})
        return adam(self, *args, **kwargs)

    def of(self, micro: int, device):
        if micro == job.get("terminate_at") and rank() == job.get("terminate_rank", 0):
            os.kill(os.getpid(), signal.SIGTERM)
        if micro == job.get("full_at"):
            resource.setrlimit(resource.RLIMIT_FSIZE, (65536, limits[1]))
        batches = plain(self, micro, device)
        if micro == job.get("poison_at"):
            batches[0].visual.fill_(float("nan"))
        return batches

    Batches.of = of
    if job.get("rates"):
        torch.optim.AdamW.step = step
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        yield
    finally:
        Batches.of, torch.optim.AdamW.step = plain, adam
        if job.get("rates") and is_first_process():
            written = [rate for one in rates for rate in one]
            (Path(job["output"]) / f"{job['name']}.rates.json").write_text(json.dumps(written))
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for one in json.loads(Path(sys.argv[1]).read_text()):
        run_job(one)
