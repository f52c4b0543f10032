"""Runs of other methods as systems of the workflow: `runs/NAME` stands beside `baseline` and `atomic/seed0`.

The run of such a system is the user's own file, wherever it is; only its metrics stand in the folder of results. The
functions take Snakemake's arguments, like those of `grace.rules.inputs`.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any

from grace.rules.inputs import as_they_are
from grace.workflow.config import Config

FOLDER = "runs"


def foreign_systems(config: Config) -> list[str]:
    """The systems that `runs` of the configuration adds, in its order."""
    return [f"{FOLDER}/{name}" for name in config.runs]


def run_of(config: Config, data: str) -> Callable[..., Any]:
    """An input: the run of the wildcard `system`, in the folder `data` of the data set or where the user has it."""

    def run(wildcards: Any) -> Any:
        folder, _, name = wildcards.system.partition("/")
        if folder == FOLDER and name in config.runs:
            return as_they_are([config.runs[name]])
        return f"{data}/{wildcards.system}/run.trec"

    return run


def retrieval_of(data: str) -> Callable[..., Any]:
    """An input: the retrieval report of the wildcard `system`; nothing for a run of another method."""
    return lambda wildcards: [] if _is_foreign(wildcards) else f"{data}/{wildcards.system}/retrieval.json"


def described_by(wildcards: Any, input: Any) -> str:
    """A param: the option that says whose run it is. It follows from the input, so it reruns nothing by itself."""
    if _is_foreign(wildcards):
        return f"--name {wildcards.system.removeprefix(f'{FOLDER}/')}"
    return f"--retrieval {shlex.quote(str(input.retrieval))}"


def _is_foreign(wildcards: Any) -> bool:
    return wildcards.system.startswith(f"{FOLDER}/")
