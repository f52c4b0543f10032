"""The shell command of a stage, as the rules run it: environment, log, and how it ended.

    shell:
        stage_command("encode --dataset {input.dataset:q} --tower {input.tower:q} --output {output:q} {params.settings}")

Nothing else tells a job what it is part of, so the rules of a workflow that imports this one are left alone. The command holds
only what differs from the defaults of the configuration, and runs as it is printed. What depends on the machine comes from the
job's resources, because a change of those reruns nothing:

GRACE_WORKFLOW  the Snakemake process that the stage ends with (`grace.system.ending`)
GRACE_LOG       the stage's log; a cancelled stage leaves its mark beside it (`grace.system.cancelled`)
GRACE_GPUS      how many GPUs the job was promised (`grace.workflow.gpus`)
GRACE_ATTEMPT   how often Snakemake has started the job, counted from 1
GRACE_THREADS   fixed: a training does not leave busy cores out (`grace.system.threads`)
PYTHONPATH      where the package is, for environments that Snakemake makes: they are made of pins alone and may be shared
                between checkouts, so the code must not be in them
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grace.rules.slices import slice_of
from grace.workflow.config import Config, Section
from grace.workflow.gpus import promised_gpus
from grace.workflow.stages import STAGES

ENVIRONMENT = "GRACE_WORKFLOW=$PPID GRACE_LOG={log:q} GRACE_GPUS={resources.gpu} {resources.env}"


def stage_command(stage: str, launch: bool = False) -> str:
    """The `shell:` of a rule that runs `python -m grace {stage}`; with `launch`, behind the launcher in `params.launch`."""
    program = "{params.launch} -m grace" if launch else "python -m grace"
    return f"{ENVIRONMENT} {program} {stage} > {{log:q}} 2>&1 || python -m grace ended $? {{log:q}}"


def launcher(config: Config) -> str:
    """The program that starts a training: plain Python, torchrun for several processes, or the user's own."""
    processes = config.resources.processes
    several = f"python -m grace.training.launch --standalone --nproc-per-node {processes}"
    return config.resources.launcher or ("python" if processes == 1 else several)


def stage_params(config: Config, stage: str, by_scheme: bool = False) -> dict[str, Any]:
    """Params of a rule: `settings`, the option that the command needs, and what reruns the stage when it changes.

    `slice` is all of the configuration that the stage reads, as JSON; `stage_version` is the number of its code. `by_scheme`: the
    slice depends on the wildcard `scheme`.
    """
    version = {"stage_version": STAGES.get(stage)}
    if not by_scheme:
        return {**_settings(slice_of(config, stage)), **version}
    return {
        name: lambda wildcards, name=name: _settings(slice_of(config, stage, wildcards.scheme))[name]
        for name in ("settings", "slice")
    } | version


def stage_resources(config: Config, package: Path | None, stage: str, memory_mb: int) -> dict[str, Any]:
    """Resources of a rule: main memory in MB, as much again with every further attempt, GPUs, and variables of the command.

    `package` is the folder that holds the package, where jobs run in environments that Snakemake makes.
    """
    fixed = [] if config.resources.adapt_threads else ["GRACE_THREADS=fixed"]
    path = [f"PYTHONPATH={shlex.quote(str(package))}${{PYTHONPATH:+:$PYTHONPATH}}"] if package else []
    return {
        "mem_mb": lambda wildcards, attempt: attempt * memory_mb,
        "gpu": promised_gpus(config).get(stage, 0),
        "env": lambda wildcards, attempt: " ".join([f"GRACE_ATTEMPT={attempt}", *fixed, *path]),
    }


def _settings(sections: Section | Mapping[str, Section | Mapping[str, Any]]) -> dict[str, str]:
    """The option with what differs from the defaults, and all of it."""
    return {"settings": _option(_dumped(sections, changed=True)), "slice": _json(_dumped(sections, changed=False))}


def _dumped(sections: Any, changed: bool) -> Any:
    if isinstance(sections, Section):
        return sections.model_dump(mode="json", exclude_defaults=changed)
    dumped = {name: _dumped(section, changed) for name, section in sections.items()}
    return {name: value for name, value in dumped.items() if value or not changed}


def _option(changed: dict[str, Any]) -> str:
    return f"--settings {shlex.quote(_json(changed))}" if changed else ""


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
