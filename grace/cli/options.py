"""The options that several commands share.

A command imports its stage only when it is called, so that `--help` is fast and the inference environment needs no DeepSpeed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from grace.workflow.config import Section, parse_settings
from grace.workflow.schemes import SCHEMES

Settings = Annotated[str, typer.Option(help="the stage's section of the configuration: inline JSON, or a YAML file")]
Dataset = Annotated[Path, typer.Option(help="dataset folder (made by `dataset`)")]
Tokenizer = Annotated[Path, typer.Option(help="tokenizer folder (made by `tokenizer`)")]
Embeddings = Annotated[Path, typer.Option(help="embeddings folder (made by `encode`)")]
TowerFolder = Annotated[Path, typer.Option("--tower", help="tower folder (made by `tower`)")]
IdentifiersFolder = Annotated[Path, typer.Option("--identifiers", help="identifiers folder (made by `identifiers`)")]
Queries = Annotated[Path, typer.Option("--pseudo-queries", help="pseudo-queries folder (made by `pseudo_queries`)")]
State = Annotated[Path, typer.Option(help="folder of the resumable state; it is deleted when training is complete")]
Output = Annotated[Path, typer.Option(help="folder to write")]
OutputFile = Annotated[Path, typer.Option("--output", help="file to write")]
Trie = Annotated[Path, typer.Option(help="trie file (made by `trie`)")]
Model = Annotated[Path, typer.Option(help="model folder (made by `train`)")]
Run = Annotated[Path, typer.Option(help="TREC run of the system")]
Scheme = Annotated[str, typer.Option(help=", ".join(SCHEMES))]
Val = Annotated[bool, typer.Option(help="include val images, for trainings that validate on them")]
Seed = Annotated[int, typer.Option(min=0, help="seed of identifiers and training")]


def parsed(model: type[Section], text: str) -> Any:
    return parse_settings(model, text, "--settings")
