"""The resumable state of a training run, in a folder of its own outside the declared outputs.

`key.json` holds the fingerprint of the job that the state belongs to (`grace.training.job`); a state of another job is
deleted, with a line that says so. `latest` (written last) names the newest complete state. `metrics.jsonl`, `validation.jsonl` and
`tensorboard/` grow here and move into the model folder at the end. A lock keeps a second training out.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from pathlib import Path
from typing import Any

from grace.system.errors import GraceError
from grace.system.files import read_json, replacing, write_json
from grace.training.processes import is_first_process, join_processes, wait_for_all


class TrainingState:
    """The state folder of one training, held while the context is entered; `key`: the fingerprint of its job.

    Entering raises a `GraceError` where another training holds the folder.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.key = folder, key
        self._finished = False

    def __enter__(self) -> TrainingState:
        if is_first_process():
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = open(self.folder / "lock", "a", encoding="utf-8")  # open while the run lasts
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise GraceError(
                    f"another training is using {self.folder}; wait until it ends, or end it before you start another"
                ) from None
            self._claim()
        join_processes()
        wait_for_all()  # the others read what the first process has claimed
        return self

    def __exit__(self, *error: object) -> None:
        if self._finished:
            shutil.rmtree(self.folder)
        if hasattr(self, "_lock"):
            self._lock.close()

    def _claim(self) -> None:
        path = self.folder / "key.json"
        if path.exists() and read_json(path, "key of the training state")["key"] == self.key:
            return
        left = [entry for entry in self.folder.iterdir() if entry.name != "lock"]
        if left:
            print(
                f"the state in {self.folder} is of other settings or inputs; training starts from scratch", flush=True
            )
        for entry in left:
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        write_json(path, {"key": self.key})

    def latest(self) -> str | None:
        """The tag of the newest complete state."""
        path = self.folder / "latest"
        return path.read_text(encoding="utf-8").strip() if path.exists() else None

    def declare_latest(self, tag: str) -> None:
        """Record that the state `tag` is complete, and the newest."""
        with replacing(self.folder / "latest") as temporary:
            temporary.write_text(tag, encoding="utf-8")

    def keep_newest(self, count: int) -> None:
        """Delete all states but the newest `count`, and the remains of states that were never completed."""
        newest = int((self.latest() or "step0").removeprefix("step"))
        states = {int(entry.name.removeprefix("step")): entry for entry in self.folder.glob("step*")}
        kept = sorted(number for number in states if number <= newest)[-count:]
        for number, entry in states.items():
            if number not in kept:
                shutil.rmtree(entry)

    def metrics_until(self, step: int) -> None:
        """Drop the lines of metrics.jsonl after `step`: the resumed run writes them again."""
        path = self.folder / "metrics.jsonl"
        if path.exists():
            lines = [line for line in path.read_text(encoding="utf-8").splitlines() if _step(line) <= step]
            with replacing(path) as temporary:
                temporary.write_text("".join(line + "\n" for line in lines), encoding="utf-8")

    def log(self, line: dict[str, Any]) -> None:
        """Append a line to metrics.jsonl."""
        with open(self.folder / "metrics.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def export_logs(self, folder: Path) -> None:
        """Copy metrics.jsonl and tensorboard/ into the model folder."""
        shutil.copy(self.folder / "metrics.jsonl", folder / "metrics.jsonl")
        shutil.copytree(self.folder / "tensorboard", folder / "tensorboard")

    def finish(self) -> None:
        """Delete the state on leaving: the model is written."""
        self._finished = True


def _step(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):  # a line that a kill cut short
        return float("inf")
