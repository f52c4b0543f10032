"""What a resumable state of a training belongs to, and how many bytes are read to know it."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from grace.identifiers.base import read_tokenizer
from grace.model.flamingo import build
from grace.records.sidecars.hashes import manifest
from grace.records.sidecars.sidecar import write_sidecar
from grace.system.files import write_json
from grace.system.weights import save_weights, unique_tensors
from grace.training import captioner as captioner_stage
from grace.training import stage as train_stage
from grace.workflow.config import Atomic, Captioner, Flamingo, ScratchLanguageModel, Training
from grace.workflow.stages import STAGES

FLAMINGO = Flamingo(scratch=ScratchLanguageModel(width=32, layers=2, heads=2, max_length=96), perceiver_latents=3)


@pytest.fixture(params=["captioner", "train"])
def stage(request, tiny, make, tokenizer_folder, tmp_path, monkeypatch):
    """A function: the key of the stage's state over the tiny data set; its attributes: the stage's name and the folder."""
    rng = np.random.default_rng(0)
    np.save(tiny["embeddings"] / "visual_tokens.npy", rng.normal(size=(54, 4, 16)).astype("f2"))
    np.save(tiny["embeddings"] / "pad_tokens.npy", np.zeros((1, 4, 16), "f2"))
    write_json(tiny["embeddings"] / "encode.json", {"images": 54, "tower": {"kind": "scratch"}})
    write_json(tiny["pseudo_queries"] / "pseudo_queries.json", {"source": "file"})
    make("numeric", name="numeric")
    shutil.copytree(tokenizer_folder, tmp_path / "tokenizer")
    keys = []
    for module in (captioner_stage, train_stage):
        monkeypatch.setattr(module, "run", lambda *args: keys.append(next(a for a in args if _is_key(a))))

    def run(flamingo: Flamingo = FLAMINGO, **training) -> str:
        folders = {"tokenizer": tmp_path / "tokenizer", "output": tmp_path / "model", "state": tmp_path / "state"}
        if request.param == "captioner":
            pair = {name: tiny[name] for name in ("dataset", "embeddings")}
            captioner_stage.captioner.__wrapped__(**pair, **folders, flamingo=flamingo, training=Captioner(**training))
        else:
            train_stage.train.__wrapped__(
                scheme="numeric", seed=0, identifiers=tmp_path / "numeric", flamingo=flamingo, atomic_head=Atomic(),
                training=Training(start_from="scratch", **training), **tiny, **folders,
            )  # fmt: skip
        return keys.pop()

    run.name, run.folder = request.param, tmp_path
    return run


def _is_key(value) -> bool:
    return isinstance(value, str) and (value == "" or (len(value) == 64 and set(value) <= set("0123456789abcdef")))


@pytest.fixture
def hashed(monkeypatch) -> list[str]:
    """The names of the files that are read to the end for a hash."""
    names, plain = [], hashlib.file_digest
    monkeypatch.setattr(
        hashlib, "file_digest", lambda file, how: names.append(Path(file.name).name) or plain(file, how)
    )
    return names


def test_a_state_belongs_to_a_version_of_its_stage(stage, monkeypatch) -> None:
    before = stage()
    assert stage() == before
    monkeypatch.setitem(STAGES, stage.name, STAGES[stage.name] + 1)
    assert stage() != before


@pytest.mark.parametrize("changed", ["captions", "embeddings", "tokenizer", "checkpoint", "settings", "save_every"])
def test_a_state_belongs_to_its_settings_and_the_content_of_its_inputs(stage, changed, tmp_path) -> None:
    flamingo, keys = FLAMINGO, {}
    model = build(FLAMINGO, read_tokenizer(tmp_path / "tokenizer"), 16)
    if changed == "checkpoint":
        flamingo = FLAMINGO.model_copy(update={"checkpoint": str(tmp_path / "flamingo.safetensors")})
        save_weights(tmp_path / "flamingo.safetensors", unique_tensors(model))
    before = stage(flamingo)
    if changed == "captions":
        path = tmp_path / "dataset/captions.parquet"
        import pandas as pd

        table = pd.read_parquet(path)
        table.assign(text=table["text"] + " again").to_parquet(path, index=False)
    elif changed == "embeddings":
        name = "visual_tokens.npy" if stage.name == "captioner" else "image_embeddings.npy"
        values = np.load(tmp_path / "embeddings" / name)
        values[3] = values[4]
        np.save(tmp_path / "embeddings" / name, values)
    elif changed == "tokenizer":
        path = tmp_path / "tokenizer/tokenizer.json"
        path.write_text(path.read_text() + " ")
    elif changed == "checkpoint":  # another one under its name
        tensors = {name: value + 1 for name, value in unique_tensors(model).items()}
        save_weights(tmp_path / "flamingo.safetensors", tensors)
    else:
        keys = {"learning_rate": 1e-5} if changed == "settings" else {"save_every": 7}
    assert (stage(flamingo, **keys) == before) == (changed == "save_every")


def test_only_the_first_process_reads_inputs_for_the_key(stage, hashed, monkeypatch) -> None:
    monkeypatch.setenv("RANK", "1")
    stage()
    assert not hashed
    monkeypatch.setenv("RANK", "0")
    stage()
    assert hashed


def test_files_whose_hash_is_recorded_are_not_read_again(stage, hashed, tmp_path) -> None:
    plain = stage()
    big = "visual_tokens.npy" if stage.name == "captioner" else "image_embeddings.npy"
    assert big in hashed
    for folder in ("dataset", "embeddings", "tokenizer", "pseudo_queries"):
        facts = dict.fromkeys(("stage", "settings", "inputs", "versions", "environment", "machine", "finished"))
        write_sidecar(tmp_path / folder, {**facts, "outputs": manifest(tmp_path / folder)})
    hashed.clear()
    assert stage() == plain and not hashed
    path = tmp_path / "embeddings" / big
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 1))  # the same content at another time
    assert stage() == plain and hashed == [big]
