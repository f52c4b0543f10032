"""The configuration: pydantic models are the single source for every key, its default, its unit and its meaning.

`config.yaml` (commented defaults) and `config/schema.json` are generated from these models by `python -m grace config`;
a test fails if they differ. Every stage reads one section, its *slice*, and is only rerun when its slice changes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from grace.workflow.config.base import Count, Section, parse, parse_settings
from grace.workflow.config.data import Dataset, Folder, Karpathy, Scenes
from grace.workflow.config.models import (
    EfficientNetLite0,
    Flamingo,
    OpenClip,
    PretrainedLanguageModel,
    ScratchLanguageModel,
    ScratchTower,
    Tower,
)
from grace.workflow.config.overlays import Overlays
from grace.workflow.config.results import Evaluate, Report, Resources, Retrieve, Runs
from grace.workflow.config.training import (
    Atomic,
    Captioner,
    Identifiers,
    PseudoQueries,
    SchemeTraining,
    Train,
    Training,
)
from grace.workflow.schemes import SCHEMES

__all__ = [
    "Atomic",
    "Captioner",
    "Config",
    "Dataset",
    "EfficientNetLite0",
    "Evaluate",
    "Flamingo",
    "Folder",
    "Identifiers",
    "Karpathy",
    "OpenClip",
    "PretrainedLanguageModel",
    "PseudoQueries",
    "Report",
    "Resources",
    "Retrieve",
    "Scenes",
    "SchemeTraining",
    "ScratchLanguageModel",
    "ScratchTower",
    "Section",
    "Tower",
    "Train",
    "Training",
    "load",
    "parse",
    "parse_settings",
]

Scheme = Literal[tuple(SCHEMES)]
PROJECT = (
    ".git",
    "benchmarks",
    "config",
    "docs",
    "envs",
    "grace",
    "profiles",
    "requirements",
    "resources",
    "rules",
    "tests",
    "tools",
)
"""Folders of the project, which results must not overwrite."""
RESERVED = ("logs", "benchmarks", "report", "metrics.json", "decoding_benchmark.json")
"""Names of other files and folders beside the data set's folder in the results folder."""


class Config(Section):
    """GRACE: from images and captions to a Recall table."""

    output: str = Field("results", description="folder for all outputs")
    schemes: tuple[Scheme, ...] = Field(
        ("atomic", "structured"),
        description=f"identifier schemes to train: {', '.join(SCHEMES)}",
    )
    seeds: tuple[Count, ...] = Field(
        (0,), description="seeds; every scheme is trained once per seed, each time with different identifiers"
    )
    runs: Runs = Field(
        {},
        description="TREC runs of other methods on the same queries and gallery, {name: path}: a row each in metrics, table and report",
    )
    dataset: Dataset = Dataset()
    tower: Tower = Tower()
    flamingo: Flamingo = Flamingo()
    captioner: Captioner = Captioner()
    pseudo_queries: PseudoQueries = PseudoQueries()
    identifiers: Identifiers = Identifiers()
    train: Train = Train()
    retrieve: Retrieve = Retrieve()
    evaluate: Evaluate = Evaluate()
    report: Report = Report()
    resources: Resources = Resources()

    @property
    def trained_schemes(self) -> list[str]:
        """The requested schemes, and atomic if one of them starts from it."""
        first = {"atomic" for scheme in self.schemes if self.train.for_scheme(scheme).start_from == "atomic"}
        return sorted({*self.schemes, *first})

    @property
    def captioner_is_read(self) -> bool:
        """Whether anything needs the captioner: pseudo-queries, or a training that starts from it."""
        starts = {self.train.for_scheme(scheme).start_from for scheme in self.trained_schemes}
        return self.pseudo_queries.source == "captioner" or "captioner" in starts

    @field_validator("output")
    @classmethod
    def _is_a_folder_of_its_own(cls, value: str) -> str:
        place = Path(value)
        here = Path.cwd()
        above = place.is_absolute() and here.is_relative_to(place)  # the working folder itself, or a parent of it
        ours = not place.is_absolute() and place.parts[:1] and place.parts[0] in PROJECT
        if not value.strip() or ".." in place.parts or place in (Path("."), Path(place.anchor)) or above or ours:
            raise ValueError("choose a separate folder, such as results: runs create and overwrite everything in it")
        if any(mark in value for mark in "{}*?[]~$") or not value.isprintable():
            raise ValueError("the folder's name must not contain { } * ? [ ] ~ $ or invisible characters")
        return str(place)

    @model_validator(mode="after")
    def _fits_each_scheme(self) -> Config:
        if self.dataset.name in RESERVED:
            raise ValueError(
                f"dataset.name: {self.dataset.name} is a reserved name in the results folder; choose another"
            )
        if self.captioner_is_read:
            _check_warmup("captioner", self.captioner)
        if self.tower.kind == "scratch":
            _check_warmup("tower.scratch", self.tower.scratch)
        for scheme in self.trained_schemes:
            try:
                keys = self.train.for_scheme(scheme)
            except ValidationError as error:
                words = "; ".join(problem["msg"].removeprefix("Value error, ") for problem in error.errors())
                raise ValueError(f"train.{scheme}, combined with train: {words}") from None
            _check_warmup(f"train.{scheme}", keys)
            if not keys.memorize_batch + keys.retrieve_batch:
                raise ValueError(
                    f"train.{scheme}: memorize_batch and retrieve_batch are both 0, so a step has no samples; raise one"
                )
        return self

    @model_validator(mode="after")
    def _check(self) -> Config:
        if not self.schemes:
            raise ValueError("schemes: list at least one scheme")
        if len(set(self.schemes)) < len(self.schemes) or len(set(self.seeds)) < len(self.seeds):
            raise ValueError("schemes and seeds: each may be listed only once")
        if not self.seeds:
            raise ValueError("seeds: list at least one seed")
        given = self.dataset.karpathy
        if self.dataset.source == "karpathy" and not given.fetched and not (given.json_file and given.images):
            raise ValueError(
                "dataset.karpathy: when dataset.source is karpathy, set json_file and images, or only download"
            )
        for scheme in self.trained_schemes:
            keys = self.train.for_scheme(scheme)
            if keys.distillation and not (keys.retrieve_batch if scheme == "atomic" else keys.pseudo_batch):
                what, key = ("captions", "") if scheme == "atomic" else ("pseudo-queries", " and pseudo_query_share")
                raise ValueError(
                    f"train.distillation trains {scheme} on its {what}, but a batch contains none; raise "
                    f"train.{scheme}.retrieve_batch{key}, or set train.{scheme}.distillation: 0"
                )
        if self.dataset.source == "folder" and not self.dataset.folder.images:
            raise ValueError("dataset.folder.images must be set when dataset.source is folder")
        if self.train.for_scheme("atomic").start_from == "atomic":
            raise ValueError("train.atomic.start_from: atomic cannot start from itself; set captioner or scratch")
        if self.pseudo_queries.source == "file" and not self.pseudo_queries.file:
            raise ValueError("pseudo_queries.file must be set when pseudo_queries.source is file")
        return self


def _check_warmup(where: str, keys: Training | ScratchTower) -> None:
    if keys.warmup_steps > keys.steps:
        raise ValueError(
            f"{where}: warmup_steps {keys.warmup_steps} is more than steps {keys.steps}, so the learning rate would never "
            "reach its peak; lower it"
        )


def load(*paths: Path | str) -> Config:
    """Read and validate a configuration: YAML files, where later ones override earlier ones, and all the defaults."""
    overlays = Overlays(paths)
    return parse(Config, overlays.values, f"configuration {', '.join(map(str, paths))}", overlays.origin)
