"""The configuration of a run of Snakemake: merged by Snakemake, checked here, with a clear message for every problem.

Called by rules/common.smk with Snakemake's workflow. Does not import torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import grace
from grace.data.download.sources import check_download
from grace.rules.commands import Jobs
from grace.system.errors import GraceError
from grace.workflow.config import Config, parse
from grace.workflow.config.overlays import EXTENDS, Overlays, laid_over
from grace.workflow.config.paths import check_paths


def planned_configuration(workflow: Any, values: dict[str, Any]) -> Config:
    """The configuration that Snakemake merged from its files and `--config`; a `GraceError` says what is wrong and where.

    If this workflow is imported as a module, `values` are what the importer passed, and the importer's own files are ignored.
    """
    if is_main(workflow):
        overlays = _overlays(workflow)
        values = overlays.lay_bases_below(values, workflow.config_settings.config)
        config = parse(Config, values, "configuration", overlays.origin)
    else:
        presets = Path(str(workflow.current_basedir)).parent / "config"
        config = parse(Config, _over_preset(values, presets), "configuration")
    check_paths(config)
    check_download(config)
    return config


def is_main(workflow: Any) -> bool:
    """Whether the Snakefile being read is the one that was started, not a module of another workflow."""
    return workflow.modifier.is_main_snakefile()


def how_jobs_run(workflow: Any) -> Jobs:
    """Where jobs find this package: in the running environment, or by its folder in environments that Snakemake makes.

    Raises `GraceError` if conda's environments would need the package and it is not in a checkout (its folder would bring all
    packages installed next to it along), and if this workflow is started in a container that is not built yet.
    """
    methods = {method.name for method in workflow.deployment_settings.deployment_method}
    image = str(workflow.modifier.global_container_img or "")
    if "APPTAINER" in methods and is_main(workflow) and image.startswith("/") and not Path(image).is_file():
        raise GraceError(
            f"the container {image} is not built yet; build it: apptainer build {image} {Path(image).with_suffix('.def')}"
        )
    folder = Path(grace.__file__).resolve().parents[1]
    in_checkout = (folder / "Snakefile").is_file()
    if "CONDA" in methods and not in_checkout:
        raise GraceError(
            f"the package grace is installed in {folder}, which jobs in conda's environments (--use-conda) cannot use; install it "
            "from a checkout: pip install --no-deps -e CHECKOUT"
        )
    given = methods & {"CONDA", "APPTAINER"} and in_checkout
    return Jobs(folder if given else None, in_container="APPTAINER" in methods)


def _overlays(workflow: Any) -> Overlays:
    """The files of the configuration: those of the command line override those that the Snakefile names."""
    given = list(map(str, workflow.overwrite_configfiles))
    named = [file for file in map(str, workflow.configfiles) if file not in given]
    return Overlays([*named, *given])


def _over_preset(values: dict[str, Any], presets: Path) -> dict[str, Any]:
    """The values given to a module, merged over the preset that they extend: a file in this workflow's folder `config`."""
    if EXTENDS not in values:
        return values
    return laid_over(
        Overlays([presets / str(values[EXTENDS])]).values,
        {key: value for key, value in values.items() if key != EXTENDS},
    )
