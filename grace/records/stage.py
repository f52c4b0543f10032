"""The decorator that turns a function into a stage: its inputs and outputs are inferred from its parameters and recorded.

    @stage("encode", photos=True)
    def encode(*, dataset: Path, tower: Path, output: Path, settings: Tower) -> None: ...

Parameters annotated as a path are inputs, except `output` (what the stage writes) and `state` (a resumable state); all others are
settings, and `seed` is the seed. So a new parameter is recorded automatically, and a call from a notebook is recorded like a
command. A stage logs what it starts with and what it wrote.
"""

from __future__ import annotations

import functools
import inspect
import os
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from grace.records.sidecars.recording import recorded
from grace.system.files import amount

Settings = Callable[[Any], dict[str, Any]]
NO_INPUT = ("output", "state")


def stage(
    name: str,
    *,
    outputs: Callable[[Path], Sequence[Path]] = lambda output: [output],
    reads: Callable[[dict[str, Any]], dict[str, Path | None]] | None = None,
    settings: Settings | None = None,
    photos: bool = False,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Record every call of a function as the stage `name` (a key of `STAGES`).

    `outputs` returns the files or folders that it writes, given its parameter `output`. `reads` returns its inputs, given all
    arguments, if they are not simply its paths. `settings` returns the part of its parameter `settings` that it reads, if not
    all. `photos`: it opens the photos of its parameter `dataset`, which must not have changed since the data set was made.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(function)
        paths = [key for key, value in signature.parameters.items() if "Path" in str(value.annotation)]
        inputs = [key for key in paths if key not in NO_INPUT]

        @functools.wraps(function)
        def run(*positional: Any, **named: Any) -> Any:
            bound = signature.bind(*positional, **named)
            bound.apply_defaults()
            given = bound.arguments
            read = reads(given) if reads else {key: given[key] for key in inputs}
            read = {key: None if path is None else Path(path) for key, path in read.items()}
            written = [Path(path) for path in outputs(Path(given["output"]))]
            said, seed = _said(given, (*paths, *NO_INPUT), settings)
            began = time.perf_counter()
            if _speaks():
                print(f"{name}: {_places(read)}; {_threads()}", flush=True)
            with recorded(
                name, reads=read, writes=written, settings=said, seed=seed,
                photos_of=Path(given["dataset"]) if photos else None,
            ):  # fmt: skip
                made = function(*positional, **named)
            if _speaks():  # the others must not look into a folder that the first process is writing
                print(f"{name}: {_made(written)} in {time.perf_counter() - began:.1f} s", flush=True)
            return made

        return run

    return decorate


def _said(given: dict[str, Any], paths: Sequence[str], settings: Settings | None) -> tuple[dict[str, Any], int | None]:
    """The settings for the record, and the seed."""
    said: dict[str, Any] = {}
    for key, value in given.items():
        if key in paths or key == "seed" or callable(value):
            continue
        if not isinstance(value, BaseModel):
            said[key] = value
        elif key == "settings":
            said |= settings(value) if settings else value.model_dump(mode="json")
        else:
            said[key] = value.model_dump(mode="json")
    return said, given.get("seed", said.get("seed", said.get("training", {}).get("seed")))


def _places(read: dict[str, Path | None]) -> str:
    named = [str(path) for path in read.values() if path is not None]
    if len(named) > 4:
        named = [*named[:3], f"{len(named) - 3} more"]
    return f"reads {', '.join(named)}" if named else "reads no files"


def _threads() -> str:
    """The threads of this process: torch's if it is imported, else those allowed by the environment."""
    torch = sys.modules.get("torch")
    allowed = os.environ.get("OMP_NUM_THREADS", "")
    count = torch.get_num_threads() if torch else int(allowed) if allowed.isdigit() else len(os.sched_getaffinity(0))
    return f"{count} threads" if count > 1 else "1 thread"


def _made(written: Sequence[Path]) -> str:
    there = [path for path in written if path.exists()]
    files = [file for path in there for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file()]
    size = amount(sum(file.stat().st_size for file in files))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return f"wrote {', '.join(map(str, there))} ({size}; peak memory {peak:,.0f} MB)"


def _speaks() -> bool:
    """Whether this process writes to the log: of a distributed run the first one does."""
    return int(os.environ.get("RANK", 0)) == 0
