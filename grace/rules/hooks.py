"""What happens before the first and after the last job of a run, and errors for options that take a target for a job.

Hooks run only for the Snakefile that was started, not for one that another workflow imports as a module: there Snakemake deletes
an output before it is made again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from grace.records.sidecars.last_good import put_back, set_aside
from grace.rules.planned import is_main
from grace.system.clock import dated_later
from grace.system.errors import GraceError


def before_first_job(workflow: Any, output: str) -> None:
    """Keep a copy of the outputs that this run will replace until the new ones exist; refuse files dated in the future."""
    from snakemake.exceptions import WorkflowError

    if ahead := dated_later(output):
        raise WorkflowError(
            f"{len(ahead)} files in {output} are dated later than now, such as {ahead[0]}: the clock was ahead when they were "
            f"written, or is behind now. Correct the clock, or set their time to now with `python -m grace retime {output}`"
        )
    try:
        set_aside(file for job in workflow.dag.needrun_jobs() for file in job.output)
    except GraceError as error:
        raise WorkflowError(str(error)) from None


def after_last_job(workflow: Any) -> None:
    """Restore the last good outputs of a failed stage, marked as incomplete so that the stage runs again.

    Without the mark Snakemake would consider them the output of the failed job, because it records failed jobs like any other.
    """
    for job in workflow.dag.needrun_jobs(exclude_finished=False):
        if any([put_back(output) for output in job.output]):
            workflow.persistence.started(job)


def targets(workflow: Any) -> Callable[..., Callable[..., list[str]]]:
    """Make the inputs of target rules: `up_to = targets(workflow)`, then `input: up_to("train", "train_model", files)`.

    A target has no output, so with `--until TARGET` or `-R TARGET` Snakemake would find nothing to do. The input is a function
    that raises an error naming the rule to use instead. In a module the names are the importer's, so nothing is checked.
    """
    checked, rules = is_main(workflow), {}

    def up_to(target: str, rule: str, files: Iterable[str]) -> Callable[..., list[str]]:
        rules[target] = rule

        def wanted(wildcards: Any) -> list[str]:
            if checked:
                for name, of_files in rules.items():
                    _refuse_as_job(workflow.dag_settings, name, of_files)
            return list(files)

        return wanted

    return up_to


def _refuse_as_job(asked: Any, target: str, rule: str) -> None:
    from snakemake.exceptions import WorkflowError

    for option, named in (("--until", asked.until), ("--omit-from", asked.omit_from), ("-R", asked.forcerun)):
        if target in named:
            instead = f"snakemake {target}" if option == "--until" else f"snakemake {option} {rule}"
            instead = "snakemake --forceall" if (option, target) == ("-R", "all") else instead
            raise WorkflowError(f"{option} {target}: `{target}` is a target, not a job; run `{instead}`")


def refuse_until(workflow: Any, rule: str) -> None:
    """Refuse `--until RULE` for a rule whose jobs depend on each other: Snakemake (9.27) would start none of them."""
    from snakemake.exceptions import WorkflowError

    if is_main(workflow) and rule in workflow.dag_settings.until:
        raise WorkflowError(f"--until {rule} cannot train a scheme that starts from another; run `snakemake train`")


def job_message(workflow: Any, short: str = "{rule}: tail -f {log}") -> str | None:
    """What Snakemake prints for a job: one line with the log to follow; None with `-p`, which prints inputs and command too."""
    return None if workflow.output_settings.printshellcmds else short
