"""The shell command with which a rule runs a stage: its environment, its log, and a last line that says how it ended.

    shell:
        stage_command("encode --dataset {input.dataset:q} --tower {input.tower:q} --output {output:q} {params.settings}")

A job gets everything about its run from this command line, so the rules of a workflow that imports this one are not affected.
The command contains only the settings that differ from the defaults, and can be run as printed. What depends on the machine comes
from the job's resources, because a change of resources reruns nothing:

GRACE_WORKFLOW  the Snakemake process that the stage ends with (`grace.system.ending`)
GRACE_LOG       the stage's log; a cancelled stage leaves a marker next to it (`grace.system.cancelled`)
GRACE_GPUS      the number of GPUs assigned to the job (`grace.workflow.gpus`)
GRACE_ATTEMPT   the number of this attempt at the job, from 1
GRACE_THREADS   fixed: a training uses busy cores too (`grace.system.threads`)
PYTHONPATH      where the package is, for environments that Snakemake creates: they contain the pinned packages only and may be
                shared between checkouts, so they must not contain the code
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from grace.rules.slices import slice_of
from grace.workflow.config import Config, Section
from grace.workflow.gpus import promised_gpus
from grace.workflow.stages import STAGES


@dataclass(frozen=True)
class Jobs:
    """How jobs run: `package` is the folder of this package, where jobs have environments that Snakemake makes."""

    package: Path | None = None
    in_container: bool = False


ENVIRONMENT = "GRACE_WORKFLOW=$PPID GRACE_LOG={log:q} GRACE_GPUS={resources.gpu} {resources.env}"


def stage_command(stage: str, launch: bool = False) -> str:
    """The `shell:` of a rule that runs `python -m grace {stage}`; with `launch`, started by `params.launch`."""
    program = "{params.launch} -m grace" if launch else "python -m grace"
    return f"{ENVIRONMENT} {program} {stage} > {{log:q}} 2>&1 || {{resources.env}} python -m grace ended $? {{log:q}}"


def launcher(config: Config) -> str:
    """The program that starts a training: Python, torchrun for several processes, or the user's own launcher."""
    processes = config.resources.processes
    several = f"python -m grace.training.launch --standalone --nproc-per-node {processes}"
    return config.resources.launcher or ("python" if processes == 1 else several)


def stage_params(config: Config, jobs: Jobs, stage: str, by_scheme: bool = False) -> dict[str, Any]:
    """Params of a rule: `settings`, the option passed to the command, and two that rerun the stage when they change.

    `slice` is the part of the configuration that the stage reads, as JSON; `stage_version` is the version number of its code.
    `by_scheme`: the slice depends on the wildcard `scheme`. In a container the option holds the whole slice, because the copy of
    the package in the image may have other defaults.
    """
    settings = partial(_settings, whole=jobs.in_container)
    version = {"stage_version": STAGES.get(stage)}
    if not by_scheme:
        return {**settings(slice_of(config, stage)), **version}
    return {
        name: lambda wildcards, name=name: settings(slice_of(config, stage, wildcards.scheme))[name]
        for name in ("settings", "slice")
    } | version


def stage_resources(config: Config, jobs: Jobs, stage: str, memory_mb: int) -> dict[str, Any]:
    """Resources of a rule: main memory in MB, which grows by the same amount with each attempt, GPUs, and environment variables.

    In a container the shell's parent is the container's own process, so the process of Snakemake is named by its number.
    """
    fixed = [] if config.resources.adapt_threads else ["GRACE_THREADS=fixed"]
    package = jobs.package
    path = [f"PYTHONPATH={shlex.quote(str(package))}${{PYTHONPATH:+:$PYTHONPATH}}"] if package else []

    def environment(wildcards: Any, attempt: int) -> str:
        process = [f"GRACE_WORKFLOW={os.getpid()}"] if jobs.in_container else []
        return " ".join([f"GRACE_ATTEMPT={attempt}", *fixed, *process, *path])

    return {
        "mem_mb": lambda wildcards, attempt: attempt * memory_mb,
        "gpu": promised_gpus(config).get(stage, 0),
        "env": environment,
    }


def _settings(sections: Section | Mapping[str, Section | Mapping[str, Any]], whole: bool = False) -> dict[str, str]:
    """`settings`: the option with the keys that differ from the defaults, or with the `whole` slice; `slice`: all keys."""
    return {"settings": _option(_dumped(sections, changed=not whole)), "slice": _json(_dumped(sections, changed=False))}


def _dumped(sections: Any, changed: bool) -> Any:
    if isinstance(sections, Section):
        return sections.model_dump(mode="json", exclude_defaults=changed)
    dumped = {name: _dumped(section, changed) for name, section in sections.items()}
    return {name: value for name, value in dumped.items() if value or not changed}


def _option(changed: dict[str, Any]) -> str:
    return f"--settings {shlex.quote(_json(changed))}" if changed else ""


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
