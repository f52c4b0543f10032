"""Configuration of search, evaluation, runs of other methods, report and resources."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from grace.workflow.config.base import Count, Home, Positive, Section, Share
from grace.workflow.schemes import SCHEMES

OWN_SYSTEMS = ("baseline", *SCHEMES)
"""Names of the systems that the workflow makes itself, in the order of the tables."""
RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")


class Retrieve(Section):
    """Trie-constrained decoding."""

    search: Literal["beam", "exact"] = Field(
        "beam", description="beam search, or exact: beam search continued until the answers are provably the best"
    )
    beams: Positive = Field(
        10,
        description="beams of the search; beam search uses more if depth, times the largest number of identifiers per image, is larger",
    )
    exact_prefixes: Count = Field(
        10_000,
        description="most prefixes that search: exact reads per query after its beam search; answers still open then are not certified",
    )
    exact_memory_mb: Positive = Field(
        1000,
        description="memory for a batch's prefixes in search: exact, in MB, besides model, prompts and beams; beyond it as for exact_prefixes",
    )
    depth: Positive = Field(10, description="images kept per query")
    batch_size: Positive = Field(64, description="queries decoded at a time; fewer if beam search uses more than beams")
    leaves_at_once: Count = Field(
        20,
        description="once this few identifiers are left below a query's beams, all are scored in one pass; 0: never",
    )
    normalisation: Literal["full", "children", "level"] = Field(
        "full",
        description="softmax for a token's score: over the full vocabulary, the valid children, or the level's alphabet",
    )
    merge: Literal["max", "logsumexp"] = Field("max", description="how to score an image with several identifiers")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="device of the search")


class Evaluate(Section):
    """Measures and their uncertainty."""

    resamples: Positive = Field(
        2000,
        description="bootstrap and permutation resamples, drawn by image, since captions of one image are not independent",
    )
    confidence: float = Field(0.95, gt=0, lt=1, description="coverage of the intervals")
    seed: Count = Field(0, description="seed of the resampling")


def check_run_name(name: str) -> str:
    """Return the name of a run of another method; `ValueError` if it is not valid, or is the name of one of our systems."""
    if not RUN_NAME.fullmatch(name):
        raise ValueError(
            f"the name {name!r} of a run may contain letters, digits, - and _ only, must begin with a letter or a digit, "
            "and may have at most 40 characters"
        )
    if name.lower() in OWN_SYSTEMS:
        raise ValueError(f"the name {name!r} of a run is that of a system of this workflow; choose another")
    return name


def _names_with_paths(value: Any) -> Any:
    """Explain what pydantic would report about the keys of a mapping without naming the remedy."""
    if isinstance(value, str):
        raise ValueError(f"a run needs a name; write {{mine: {value}}}")
    if isinstance(value, dict):
        numbers = [name for name in value if not isinstance(name, str)]
        if numbers:
            raise ValueError(f"the name {numbers[0]!r} of a run is not a string; put it in quotes")
    return value


def _checked_names(value: dict[str, str]) -> dict[str, str]:
    seen: dict[str, str] = {}
    for name, path in value.items():
        check_run_name(name)
        if not path.strip():
            raise ValueError(f"the run {name!r} has no path; name its file, or leave it out")
        # On a file system that ignores case, both would write into one folder.
        if name.lower() in seen:
            raise ValueError(f"the names {seen[name.lower()]!r} and {name!r} differ in upper and lower case only")
        seen[name.lower()] = name
    return value


Runs = Annotated[dict[str, Home], BeforeValidator(_names_with_paths), AfterValidator(_checked_names)]
"""TREC runs of other methods, {name: path}."""


class Report(Section):
    """The HTML page."""

    title: str = Field("GRACE: generative image retrieval", description="title of the page")
    examples: Count = Field(8, description="hits, and misses, shown with pictures per system; 0: no pictures at all")
    near_duplicate: Share = Field(
        0.95, description="cosine of two images' embeddings from which the data card counts them as near-duplicates"
    )
    benchmark: Home = Field(
        "",
        description="result of `make bench` to show; empty: decoding_benchmark.json in the results folder, if it exists",
    )


class Resources(Section):
    """Resources that jobs request."""

    train_threads: Positive = Field(2, description="CPU threads per training job")
    solo_threads: Positive = Field(
        2,
        description="CPU threads of a job that runs alone: tower, encode, captioner, pseudo_queries",
    )
    adapt_threads: bool = Field(
        True,
        description="let a training on CPU avoid cores that other programs keep busy when it starts; with fewer threads the last digits of its results differ",
    )
    gpus: Count = Field(0, description="GPUs per training job; other stages that compute on a GPU get one; 0: CPU")
    processes: Positive = Field(1, description="training processes (torchrun) per job")
    launcher: str = Field(
        "",
        description="command that starts a training instead of `python`, such as srun and grace.training.launch for several nodes; empty: according to processes",
    )
    memory_mb: Positive | None = Field(
        None,
        description="main memory in MB that a job with a network requests from a scheduler; null: as computed by `plan`. A job killed for lack of memory requests that much more",
    )

    @model_validator(mode="after")
    def _every_gpu_has_a_process(self) -> Resources:
        if self.gpus and not self.launcher and self.processes != self.gpus:
            raise ValueError(
                f"processes {self.processes} on gpus {self.gpus}: training needs one process per GPU; set both to the same number"
            )
        return self
