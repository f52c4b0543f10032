"""Two training processes through Snakemake: ended by SIGTERM and resumed; validation, adapters and the model card."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
OVERLAY = {
    "schemes": ["numeric"],
    "train": {
        "start_from": "scratch", "steps": 30, "save_every": 5, "validate_every": 10, "zero_stage": 2, "log_every": 5,
        "trainable": ["perceiver", "cross_attention", "lora"], "schedule": "constant",
    },
    "resources": {"processes": 2},
}  # fmt: skip


def start(workflow, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "snakemake", "--directory", str(workflow.folder), "--cores", "2", *arguments]
    command += ["--configfile", "config/tiny.yaml", str(workflow.folder / "two.yaml")]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"}
    with open(workflow.folder / "said.log", "w") as said:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=said, stderr=subprocess.STDOUT)


def launcher(snakemake: subprocess.Popen) -> psutil.Process | None:
    for child in psutil.Process(snakemake.pid).children(recursive=True):
        try:
            if child.cmdline()[1:3] == ["-m", "grace.training.launch"]:
                return child
        except (psutil.Error, IndexError):
            continue
    return None


def test_two_processes_are_ended_by_sigterm_go_on_and_make_a_model(workflow_in, tmp_path) -> None:
    workflow = workflow_in(tmp_path)
    workflow.overlay("two", OVERLAY)
    first = start(workflow, "retrieve")
    own = tmp_path / "results-tiny" / "scenes" / "numeric" / "seed0"
    while not (own / "training_state" / "latest").exists():
        assert first.poll() is None, (tmp_path / "said.log").read_text()[-6000:]
        time.sleep(0.02)
    launcher(first).send_signal(signal.SIGTERM)
    assert first.wait(timeout=300) != 0, "the training ended before it was told to: give it more steps"
    log = tmp_path / "results-tiny" / "logs" / "scenes" / "numeric" / "seed0" / "train.log"
    said = log.read_text()
    assert re.search(r"interrupted: ended at step \d+ by SIGTERM", said) and "Traceback" not in said, said
    assert "exit code 1" not in said and not (own / "model").exists()

    again = start(workflow, "retrieve")
    assert again.wait(timeout=600) == 0, (tmp_path / "said.log").read_text()[-6000:] + log.read_text()
    assert "resuming from step" in log.read_text()
    config = json.loads((own / "model" / "config.json").read_text())
    assert config["processes"] == 2 and config["validation"]["step"] in (10, 20, 30)
    lines = [json.loads(line) for line in (own / "model" / "validation.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20, 30]
    table = json.loads((own / "identifiers" / "statistics.json").read_text())["splits"]
    assert table == {"test": 30, "train": 60, "val": 10}
    answers = {line.split()[2] for line in (own / "run.trec").read_text().splitlines()}
    assert answers <= gallery_of(tmp_path), "retrieve found images that are not in the gallery"

    card = (own / "model" / "README.md").read_text()
    for said in ("transductive corpus, unseen queries", "and the val images it was validated on", "| processes | 2 |"):
        assert said in card
    tower = json.loads((tmp_path / "results-tiny/scenes/embeddings/encode.json").read_text())["tower"]
    assert tower["weights_sha256"] in card and len(tower["weights_sha256"]) == 64
    assert config["vision_tower"] == tower
    loads_without(own / "model", "deepspeed", "peft", "tensorboard", "accelerate")


def gallery_of(folder: Path) -> set[str]:
    import pandas as pd

    images = pd.read_parquet(folder / "results-tiny" / "scenes" / "dataset" / "images.parquet")
    return set(images["image_id"][images["split"] == "test"])


def loads_without(model: Path, *packages: str) -> None:
    """The model loads where these packages are not installed, as in the inference environment."""
    code = (
        "import sys, pathlib\n"
        f"sys.modules.update(dict.fromkeys({packages!r}))\n"
        "from grace.model.checkpoints import load_model\n"
        "model, tokenizer, config = load_model(pathlib.Path(sys.argv[1]))\n"
        "assert not any('lora' in name for name, _ in model.named_parameters())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(model)], cwd=ROOT, text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
