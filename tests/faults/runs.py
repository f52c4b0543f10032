"""One small run of the workflow that faults are done to, and what must hold after every one of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import yaml

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
OUTPUT = "results-tiny"
FINAL = (f"{OUTPUT}/metrics.json", f"{OUTPUT}/scenes/numeric/seed0/run.trec", f"{OUTPUT}/scenes/baseline/run.trec")
# the shortest way to a table of scores: one scheme that starts from nothing, pseudo-queries that are given
SMALL = {
    "schemes": ["numeric"],
    "pseudo_queries": {"source": "file", "file": "queries.jsonl"},
    "train": {"start_from": "scratch", "steps": 40, "save_every": 5, "log_every": 10},
    "evaluate": {"resamples": 50},
    "report": {"examples": 1},
}
# and one through every stage
WHOLE = {
    **SMALL,
    "pseudo_queries": {"source": "captioner"},
    "captioner": {"steps": 20, "save_every": 5},
}
# rules whose name is not that of their stage
RULE_OF = {
    "identifiers": "assign_identifiers",
    "trie": "build_trie",
    "train": "train_model",
    "retrieve": "retrieve_images",
    "evaluate": "evaluate_system",
}
GALLERY = range(70, 100)  # image ids of the split test: config/tiny.yaml draws 60 + 10 + 30 images


class Run:
    """Snakemake in one folder."""

    def __init__(self, folder: Path, log: str = "said.log", values: dict = SMALL) -> None:
        self.folder, self.log, self.values = folder, folder / log, values
        self.results = folder / OUTPUT

    def configure(self, **changed: dict) -> None:
        """Write the overlay: the run's values, and others in some sections; and the file of pseudo-queries, if there is none."""
        values = {**self.values, **{name: {**self.values.get(name, {}), **value} for name, value in changed.items()}}
        (self.folder / "small.yaml").write_text(yaml.safe_dump(values))
        if not (self.folder / "queries.jsonl").exists():
            self.say("a drawing called")

    def say(self, text: str) -> None:
        """Write the file of pseudo-queries: `text` and the image's number."""
        lines = [json.dumps({"image_id": str(image), "text": f"{text} {image}"}) + "\n" for image in GALLERY]
        (self.folder / "queries.jsonl").write_text("".join(lines))

    def start(self, *arguments: str, limits: str = "", programs: Path = BIN) -> subprocess.Popen:
        """Start a run; `limits` are shell commands before it, such as `ulimit -f 100`; the stages' `python` is in `programs`."""
        command = [sys.executable, "-m", "snakemake", "--directory", str(self.folder), "--cores", "2", *arguments]
        command += ["--configfile", "config/tiny.yaml", str(self.folder / "small.yaml")]
        if limits:
            command = ["bash", "-c", f'{limits}; exec "$@"', "bash", *command]
        path = f"{programs}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        with open(self.log, "w", encoding="utf-8") as log:
            return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)

    def __call__(self, *arguments: str, limits: str = "", programs: Path = BIN) -> tuple[int, str]:
        """(exit code, what was said) of a run that is left alone."""
        return self.start(*arguments, limits=limits, programs=programs).wait(timeout=900), self.said()

    def said(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")

    def unlock(self) -> None:
        code, said = self("--unlock")
        assert code == 0, said

    def stages(self, snakemake: subprocess.Popen) -> list[psutil.Process]:
        """The processes of the stages that a run has at work."""
        try:
            children = psutil.Process(snakemake.pid).children(recursive=True)
            return [child for child in children if child.cmdline()[1:3] == ["-m", "grace"]]
        except psutil.Error:
            return []

    def verify(self) -> tuple[int, str]:
        """(exit code, what was said) of `python -m grace verify`."""
        done = subprocess.run(
            [sys.executable, "-m", "grace", "verify", OUTPUT],
            cwd=self.folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True, capture_output=True, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    def must_end_as(self, undisturbed: Run) -> None:
        """The rerun finishes; its scores and rankings are those of the undisturbed run, and every record is true."""
        code, said = self()
        assert code == 0, said[-8000:]
        for name in FINAL:
            assert (self.folder / name).read_bytes() == (undisturbed.folder / name).read_bytes(), f"{name} differs"
        code, said = self.verify()
        assert code == 0, said
        hidden = [path for path in self.results.rglob(".*") if path.name not in (".snakemake_timestamp", ".grace")]
        assert hidden == [], "half-written files are left"


def in_words(run: Run, stage: str = "*") -> str:
    """The last line of every log that tells of a failure (of every log of a stage)."""
    told = []
    for log in (run.results / "logs").rglob(f"{stage}.log"):
        lines = log.read_text(errors="replace").strip().splitlines()
        if lines and lines[-1].startswith(("error: ", "ended: ", "interrupted: ")):
            told.append(lines[-1])
    return "\n".join(told)


def wait_for_any(run: Run, snakemake: subprocess.Popen, stages: Sequence[str]) -> tuple[str, psutil.Process] | None:
    """The first of these stages to be at work, and its process; None if the run ends before."""
    while snakemake.poll() is None:
        for process in run.stages(snakemake):
            try:
                stage = process.cmdline()[3]
            except (psutil.Error, IndexError):
                continue
            if stage in stages:
                return stage, process
        time.sleep(0.02)
    return None


def wait_for_stage(run: Run, snakemake: subprocess.Popen, stage: str) -> psutil.Process | None:
    """The process of a stage, as soon as there is one; None if the run ends before."""
    found = wait_for_any(run, snakemake, [stage])
    return found and found[1]


def seconds_of(run: Run) -> dict[str, float]:
    """How long every stage took, as its sidecar says (the longest, where it ran more than once)."""
    found: dict[str, float] = {}
    for path in run.results.rglob("*provenance.json"):
        record = json.loads(path.read_text())
        found[record["stage"]] = max(found.get(record["stage"], 0.0), record["seconds"])
    return found
