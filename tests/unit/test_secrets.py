"""Tokens of the environment stand in nothing that a command prints or records."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from grace.records.provenance import provenance

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "hf_AbCdEfGh0123456789"

# one of every way by which text leaves a command: print, a log, a progress bar, a warning, a user's error, a defect
PRINTS = f"""
import logging, sys, warnings
import typer
from tqdm import tqdm
from grace import cli
from grace.system.errors import GraceError

token = {TOKEN!r}
room = typer.Typer()

@room.command("leak")
def leak(how: str) -> None:
    print("printed", token)
    sys.stderr.writelines(["lines of ", token])
    logging.basicConfig(stream=sys.stderr, force=True)
    logging.getLogger("a.library").warning("with header Authorization: Bearer %s", token)
    warnings.warn("warned of " + token)
    list(tqdm(range(2), desc="bar " + token))
    print("address https://someone:sesame-{{}}@example.org/x".format("open"))
    if how == "error":
        raise GraceError("refused with " + token)
    raise RuntimeError("defect with " + token)

cli.app.add_typer(room)
cli.main()
"""


def run(*arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_TOKEN": TOKEN}
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, text=True, capture_output=True, timeout=120
    )


def test_nothing_that_is_printed_holds_a_token():
    for how, code in (("error", 2), ("defect", 1)):
        done = run("-c", PRINTS, "leak", how)
        assert done.returncode == code, done.stdout + done.stderr
        said = done.stdout + done.stderr
        assert TOKEN not in said and "sesame" not in said, said
        for part in ("printed ***", "lines of ***", "Bearer ***", "warned of ***", "bar ***", "with ***"):
            assert part in said, (part, said)
        assert "https://***@example.org/x" in said
    assert "Traceback" in said  # a defect is told whole, but for the token


def test_no_record_holds_a_token(tmp_path, monkeypatch):
    """Of a real command whose settings name an address with a token in it."""
    file = tmp_path / f"with-{TOKEN}"
    settings = json.dumps({"train_images": 2, "val_images": 1, "test_images": 1})
    done = run(
        "-m", "grace", "dataset", "scenes", "--name", TOKEN, "--output", str(tmp_path / "out"), "--settings", settings
    )
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout + done.stderr + (tmp_path / "out" / "provenance.json").read_text()
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert TOKEN not in json.dumps(provenance({"model": str(file), "url": f"https://{TOKEN}@example.org"}))
