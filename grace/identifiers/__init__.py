"""Stage `identifiers`: gives every train and test image its identifier, by one of the schemes of `grace.workflow.schemes`.

Val images get one too where trainings are validated (`--val`).

Reads the data set, the tokenizer and, where the scheme needs them, image embeddings or pseudo-queries; writes
`identifiers.parquet`, `tokens.json` and `statistics.json` (see `base` and `statistics`). Command:

    python -m grace identifiers --scheme structured --seed 0 --dataset DIR --tokenizer DIR --embeddings DIR \
        --pseudo-queries DIR --output DIR

A new scheme is one file `grace/identifiers/NAME.py` with a function `NAME(inputs) -> Assignment`, and one line in
`grace/workflow/schemes.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd

from grace.data.tables import load_dataset
from grace.identifiers.base import Assignment, Inputs, end_token_id, read_tokenizer
from grace.records.stage import stage
from grace.system.errors import GraceError, did_you_mean
from grace.system.files import replacing_folder, write_json, write_table
from grace.workflow.config import Identifiers
from grace.workflow.schemes import SCHEMES


def scheme_function(scheme: str) -> Callable[[Inputs], Assignment]:
    """Return the function of a scheme; an unknown name is a `GraceError`."""
    if scheme not in SCHEMES:
        raise GraceError(f"unknown identifier scheme '{scheme}'{did_you_mean(scheme, SCHEMES)}")
    return getattr(import_module(f"grace.identifiers.{scheme}"), scheme)


@stage("identifiers")
def identifiers(
    *,
    scheme: str,
    seed: int,
    dataset: Path,
    tokenizer: Path,
    embeddings: Path | None,
    pseudo_queries: Path | None,
    output: Path,
    settings: Identifiers,
    val: bool = False,
) -> None:
    """Assign, check and write the identifiers of one scheme and seed, with `val` of val images too.

    Anything wrong is one `GraceError`.
    """
    from grace.identifiers.checks import check_identifiers
    from grace.identifiers.statistics import level_alphabets, statistics

    assign = scheme_function(scheme)
    tables = load_dataset(dataset)
    if val and not len(tables.images_of("val")):
        raise GraceError(
            f"--val (train.validate_every) wants val images, and the data set {dataset} has none; leave it out"
        )
    images = tables.images if val else tables.images[tables.images["split"] != "val"]
    images = images.assign(row=images.index.to_numpy()).reset_index(drop=True)
    loaded = read_tokenizer(tokenizer)
    inputs = Inputs(
        images=images, dataset=tables, tokenizer=loaded, settings=settings, seed=seed,
        embeddings_folder=None if embeddings is None else Path(embeddings),
        pseudo_queries_folder=None if pseudo_queries is None else Path(pseudo_queries),
    )  # fmt: skip
    assignment = assign(inputs)
    table = identifier_table(assignment, images)
    end = [] if scheme == "atomic" else [end_token_id(loaded)]
    passed = check_identifiers(table, images, loaded, scheme, assignment.new_tokens)
    alphabets = [] if scheme == "atomic" else level_alphabets(table, end)
    with replacing_folder(output, "identifiers") as folder:
        write_table(folder / "identifiers.parquet", table)
        tokens = {"scheme": scheme, "new_tokens": assignment.new_tokens, "levels": alphabets}
        write_json(folder / "tokens.json", tokens)
        write_json(folder / "statistics.json", statistics(table, scheme, seed, end, passed))


def identifier_table(assignment: Assignment, images: pd.DataFrame) -> pd.DataFrame:
    """The rows of identifiers.parquet, in the order of the assignment."""
    chosen = images.iloc[np.asarray(assignment.image, dtype=np.int64)]
    return pd.DataFrame(
        {
            "image_id": chosen["image_id"].to_numpy(),
            "split": chosen["split"].to_numpy(),
            "tokens": [np.asarray(tokens, dtype=np.int32) for tokens in assignment.tokens],
            "text": assignment.text,
        }
    )
