"""The configuration of a run of Snakemake: merged by Snakemake, checked here, with all problems in words.

Called by rules/common.smk with Snakemake's workflow; imports neither torch nor Snakemake before something is wrong.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grace
from grace.data.download.sources import check_download
from grace.system.errors import GraceError
from grace.workflow.config import Config, parse
from grace.workflow.config.overlays import Overlays
from grace.workflow.config.paths import check_paths


def planned_configuration(workflow: Any, values: dict[str, Any]) -> Config:
    """The configuration that Snakemake merged from its files and `--config`; a `GraceError` names what is wrong and where.

    Of a workflow that is imported as a module, `values` are what the importer gave; its files are none of ours.
    """
    config = parse(Config, values, "configuration", _origin(workflow))
    check_paths(config)
    check_download(config)
    return config


def is_main(workflow: Any) -> bool:
    """Whether the Snakefile that is being read is the one that runs, and not a module of another workflow."""
    return workflow.modifier.is_main_snakefile()


def package_for_jobs(workflow: Any) -> Path | None:
    """The folder that holds this package, if jobs run in environments that Snakemake makes (conda, containers), else None.

    A `GraceError` if the package is no checkout: its folder would bring all other packages beside it into those environments.
    """
    if not workflow.deployment_settings.deployment_method:
        return None
    folder = Path(grace.__file__).resolve().parents[1]
    if not (folder / "Snakefile").is_file():
        raise GraceError(
            f"the package grace is installed in {folder}, where jobs in environments of their own (--use-conda, "
            "--software-deployment-method) cannot find it alone; install it from a checkout: pip install --no-deps -e CHECKOUT"
        )
    return folder


def _origin(workflow: Any) -> Any:
    """Says which file a value is from. Files of the command line are laid over those that the Snakefile names."""
    if not is_main(workflow):
        return lambda place, value: ""
    given = list(map(str, workflow.overwrite_configfiles))
    named = [file for file in map(str, workflow.configfiles) if file not in given]
    return Overlays([*named, *given]).origin
