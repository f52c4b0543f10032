"""A small training, the captioner's, in a process of its own: for tests that end it in the midst."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from grace.data.scenes import scenes
from grace.model.tokenizer import tokenizer
from grace.towers import tower
from grace.towers.embeddings import encode
from grace.workflow.config import Captioner, Config, Flamingo, Scenes, ScratchLanguageModel, ScratchTower, Tower

ROOT = Path(__file__).resolve().parents[2]
FLAMINGO = Flamingo(scratch=ScratchLanguageModel(width=32, layers=2, heads=2), perceiver_latents=3)


def make_folders(folder: Path) -> Path:
    """What a captioner reads: dataset, tokenizer, embeddings."""
    scenes(output=folder / "dataset", settings=Scenes(train_images=40, val_images=2, test_images=6))
    settings = Tower(scratch=ScratchTower(steps=2, width=32, text_width=32, embedding_dim=16, batch_size=8))
    tokenizer(dataset=folder / "dataset", output=folder / "tokenizer", settings=Config().flamingo)
    tower(dataset=folder / "dataset", output=folder / "tower", settings=settings)
    encode(dataset=folder / "dataset", tower=folder / "tower", output=folder / "embeddings", settings=settings)
    return folder


def start(folder: Path, output: Path, **keys: int) -> subprocess.Popen:
    """Train a captioner with the folders of `folder` into `output`; its state is beside it, OUTPUT_state."""
    training = Captioner(**{"steps": 120, "save_every": 10, "log_every": 5, "retrieve_batch": 8, **keys})
    settings = {"flamingo": FLAMINGO.model_dump(mode="json"), "training": training.model_dump(mode="json")}
    command = [sys.executable, "-m", "grace", "captioner", "--settings", json.dumps(settings)]
    for option in ("dataset", "tokenizer", "embeddings"):
        command += [f"--{option}", str(folder / option)]
    command += ["--output", str(output), "--state", f"{output}_state"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
