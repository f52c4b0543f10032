"""The GPUs of a stage: how many the workflow promised it, whether they are there, and which of them it takes.

The workflow puts its promise to a job into GRACE_GPUS, a number. `take_gpus` runs before a stage imports
anything: it restricts CUDA_VISIBLE_DEVICES to the stage's own GPUs or raises a `GraceError`. A stage run by hand was promised
nothing and uses what it finds.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from grace.system.errors import GraceError
from grace.workflow.config import Config

PROMISED = "GRACE_GPUS"
VISIBLE = "CUDA_VISIBLE_DEVICES"
_held: list[IO[str]] = []  # locks on GPUs, held until this process ends


def promised_gpus(config: Config) -> dict[str, int]:
    """{stage: GPUs} of the stages that compute on GPUs: `resources.gpus` for a training, one for any other."""
    if not config.resources.gpus:
        return {}
    tower = config.tower.kind == "open_clip"  # the other kinds compute on the processor
    one = {
        "dataset": config.dataset.source == "folder" and bool(config.dataset.folder.captioner),
        "encode": tower,
        "baseline": tower,
        "pseudo_queries": {"captioner": True, "nearest": tower, "file": False}[config.pseudo_queries.source],
        "retrieve": config.retrieve.device != "cpu",
    }
    trainings = dict.fromkeys(("captioner", "train"), config.resources.gpus)
    return trainings | {stage: 1 for stage, computes in one.items() if computes}


def take_gpus(stage: str) -> None:
    """Leave this process, and those it starts, the GPUs that the workflow promised `stage`, and no others.

    Raises a `GraceError` if there are fewer. If there are more, free ones are chosen, so that jobs of one machine share none.
    """
    if PROMISED not in os.environ:
        return
    promised = int(os.environ[PROMISED])
    if promised == 0:
        os.environ[VISIBLE] = ""
        return
    names = visible_gpus()
    if "TORCHELASTIC_RUN_ID" in os.environ and len(names) >= promised:
        return  # a process of a launcher: all processes of one job share its GPUs
    if len(names) < promised:
        raise GraceError(
            f"{stage} needs {_count(promised)} (resources.gpus), and torch sees {_count(len(names))}{_why()}; "
            "set resources.gpus to what the machine has (0: train on the processor)"
        )
    if len(names) > promised:
        names = _free(names, promised, stage)
        os.environ[VISIBLE] = ",".join(names)


def visible_gpus() -> list[str]:
    """The GPUs that torch sees, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    found = (
        torch.cuda.device_count()
    )  # asks the driver's management library, so that CUDA_VISIBLE_DEVICES can still change
    given = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    return (given or [str(number) for number in range(found)])[:found]


def _free(names: Sequence[str], wanted: int, stage: str) -> list[str]:
    """`wanted` of the GPUs `names` that no other stage on this machine has taken; they are taken until this process ends."""
    folder = Path(tempfile.gettempdir()) / f"grace-gpus-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    taken: list[str] = []
    for name in names:
        lock = open(folder / name.replace("/", "_"), "a", encoding="utf-8")  # noqa: SIM115 (it is held)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            continue
        _held.append(lock)
        taken.append(name)
        if len(taken) == wanted:
            return taken
    raise GraceError(
        f"{stage} needs {_count(wanted)} (resources.gpus), and {len(taken)} of the {len(names)} on this machine are free; "
        "start fewer jobs at once (--resources gpu=N), or wait for the other run"
    )


def _count(gpus: int) -> str:
    return "no GPU" if gpus == 0 else "1 GPU" if gpus == 1 else f"{gpus} GPUs"


def _why() -> str:
    """What explains that torch sees too few GPUs, in brackets; empty if nothing is known."""
    import torch

    if torch.version.cuda is None and torch.version.hip is None:
        return f" (torch {torch.__version__} is a build without CUDA: see docs/cluster.md, Your CUDA)"
    if VISIBLE in os.environ:
        return f" ({VISIBLE} is {os.environ[VISIBLE]!r})"
    return ""
