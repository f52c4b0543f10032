"""Runs of other methods as systems of the workflow: `runs/NAME`, like `baseline` and `atomic/seed0`.

The run of such a system is the user's own file, wherever it is; only its metrics are in the results folder. The functions
take Snakemake's arguments, like those of `grace.rules.inputs`.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any

from grace.rules.inputs import as_they_are
from grace.workflow.config import Config

FOLDER = "runs"


def foreign_systems(config: Config) -> list[str]:
    """The systems that `runs` in the configuration adds, in that order."""
    return [f"{FOLDER}/{name}" for name in config.runs]


def run_of(config: Config, data: str) -> Callable[..., Any]:
    """An input: the run of the wildcard `system`, in the data set's folder `data`, or at the user's own path."""

    def run(wildcards: Any) -> Any:
        folder, _, name = wildcards.system.partition("/")
        if folder == FOLDER and name in config.runs:
            return as_they_are([config.runs[name]])
        return f"{data}/{wildcards.system}/run.trec"

    return run


def retrieval_of(data: str) -> Callable[..., Any]:
    """An input: the retrieval report of the wildcard `system`; none for a run of another method."""
    return lambda wildcards: [] if _is_foreign(wildcards) else f"{data}/{wildcards.system}/retrieval.json"


def described_by(wildcards: Any, input: Any) -> str:
    """A param: the option that identifies the run. It follows from the input, so it does not rerun anything by itself."""
    if _is_foreign(wildcards):
        return f"--name {wildcards.system.removeprefix(f'{FOLDER}/')}"
    return f"--retrieval {shlex.quote(str(input.retrieval))}"


def _is_foreign(wildcards: Any) -> bool:
    return wildcards.system.startswith(f"{FOLDER}/")
