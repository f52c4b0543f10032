"""Inputs and params of rules that are functions: the user's own files, folders next to an output, the contents of a photo folder.

They take Snakemake's arguments (wildcards, input, output), so that folders follow a module's prefix; tests call them directly.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from grace.data.listing import listing_digest
from grace.system.errors import GraceError
from grace.workflow.config import Config
from grace.workflow.config.paths import read_by


def own_files(config: Config, stage: str) -> list[str]:
    """The user's own files that a stage reads (weights, tables), at their own paths whatever a module's prefix."""
    return as_they_are(read_by(config, stage))


def as_they_are(files: list[str]) -> list[str]:
    """Files to which a module's prefix is not added."""
    from snakemake.io import local

    return [local(file) for file in files]


def beside(name: str) -> Callable[..., str]:
    """A param: the path `name` in the folder of the rule's first output."""
    return lambda wildcards, output: str(Path(output[0]).parent / name)


def beside_with(ending: str) -> Callable[..., str]:
    """A param: the path of the rule's first output with `ending` appended."""
    return lambda wildcards, output: f"{output[0]}{ending}"


def options(*names: str) -> Callable[..., str]:
    """A param: `--NAME PATH` for each input in `names` that the rule has (`start_from` becomes `--start-from`)."""

    def given(wildcards: Any, input: Any) -> str:
        found = {name: input.get(name) for name in names}
        return " ".join(f"--{name.replace('_', '-')} {shlex.quote(str(path))}" for name, path in found.items() if path)

    return given


def karpathy_files(config: Config) -> Callable[..., str]:
    """A param: the options for Karpathy's JSON file and the image folder; after a download both are next to the receipt."""
    settings = config.dataset.karpathy

    def given(wildcards: Any, input: Any) -> str:
        if config.dataset.source != "karpathy":
            return ""
        json_file, images = settings.paths
        if settings.fetched:
            folder = Path(input[0]).parent
            json_file, images = str(folder / Path(json_file).name), str(folder / Path(images).name)
        return f"--json {shlex.quote(json_file)} --images {shlex.quote(images)}"

    return given


def photos(config: Config) -> Callable[..., str]:
    """A param: a digest of the contents of the user's photo folder, which decides whether the stage `dataset` runs again.

    The folder itself is not an input, because its time stamp does not tell whether the photos changed.
    """
    folder = config.dataset.folder

    def digest(wildcards: Any, output: Any) -> str:
        from snakemake.exceptions import WorkflowError

        if config.dataset.source != "folder":
            return ""
        try:
            return listing_digest(Path(folder.images), Path(output[0]).parents[1], folder.captions == "sidecar")
        except GraceError as error:
            raise WorkflowError(f"dataset.folder: {error}") from None

    return digest


def stamp_of(name: str) -> Callable[..., int | None]:
    """A param: when the file `name` in the results folder was last written (ns); None if it does not exist.

    For an optional file of a stage: Snakemake requires inputs to exist.
    """

    def stamp(wildcards: Any, output: Any) -> int | None:
        file = Path(output[0]).parents[1] / name
        return file.stat().st_mtime_ns if file.exists() else None

    return stamp
