"""What happens before the first and after the last job of a run, and targets that are not taken for jobs.

Hooks run for the Snakefile that was started, not for one that another workflow imports as a module: there an output that is being
made again is gone until it is made, as is Snakemake's way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from grace.records.sidecars.last_good import put_back, set_aside
from grace.rules.planned import is_main
from grace.system.clock import dated_later
from grace.system.errors import GraceError


def before_first_job(workflow: Any, output: str) -> None:
    """Keep the outputs that this run is going to replace until there are new ones; refuse files from the future."""
    from snakemake.exceptions import WorkflowError

    if ahead := dated_later(output):
        raise WorkflowError(
            f"{len(ahead)} files in {output} are dated later than now, such as {ahead[0]}: the clock ran ahead when they were "
            f"made, or runs behind now. Set the clock right, or give them the time of now with `python -m grace retime {output}`"
        )
    try:
        set_aside(file for job in workflow.dag.needrun_jobs() for file in job.output)
    except GraceError as error:
        raise WorkflowError(str(error)) from None


def after_last_job(workflow: Any) -> None:
    """Give a stage that failed its last good outputs back, marked as incomplete, so that it runs again.

    Without the mark Snakemake would take them for what the failed job was to make: it records a failed job like any other.
    """
    for job in workflow.dag.needrun_jobs(exclude_finished=False):
        if any([put_back(output) for output in job.output]):
            workflow.persistence.started(job)


def targets(workflow: Any) -> Callable[..., Callable[..., list[str]]]:
    """Make inputs of target rules: `up_to = targets(workflow)`, then `input: up_to("train", "train_model", files)`.

    A target makes nothing itself, so with `--until TARGET` or `-R TARGET` Snakemake would find nothing to do. The input is a
    function that says so, with the rule that was meant; in a module the names are the importer's, and nothing is said.
    """
    checked = is_main(workflow)

    def up_to(target: str, rule: str, files: Iterable[str]) -> Callable[..., list[str]]:
        def wanted(wildcards: Any) -> list[str]:
            if checked:
                _refuse_as_job(workflow.dag_settings, target, rule)
            return list(files)

        return wanted

    return up_to


def _refuse_as_job(asked: Any, target: str, rule: str) -> None:
    from snakemake.exceptions import WorkflowError

    for option, named in (("--until", asked.until), ("--omit-from", asked.omit_from), ("-R", asked.forcerun)):
        if target in named:
            instead = f"snakemake {target}" if option == "--until" else f"snakemake {option} {rule}"
            raise WorkflowError(f"{option} {target}: `{target}` is a target and no job of its own; run `{instead}`")


def refuse_until(workflow: Any, rule: str) -> None:
    """Refuse `--until RULE` for a rule whose jobs depend on each other: Snakemake (9.27) starts none of these."""
    from snakemake.exceptions import WorkflowError

    if is_main(workflow) and rule in workflow.dag_settings.until:
        raise WorkflowError(f"--until {rule} cannot train a scheme that starts from another; run `snakemake train`")


def job_message(workflow: Any, short: str = "{rule}: tail -f {log}") -> str | None:
    """What Snakemake prints for a job: one line with the log to follow, or with `-p` (None) all, from inputs to the command."""
    return None if workflow.output_settings.printshellcmds else short
