"""The stage `train`: one scheme of identifiers into one model.

Reads the dataset, tokenizer, embeddings, pseudo-queries and identifiers folders (also a model's, to start from it, and the
tower's, to learn from it); writes a model folder (see `grace.training.run`).

    python -m grace train --scheme structured --seed 0 --dataset ... --output results/scenes/structured/seed0/model
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from grace.data.tables import DatasetTables, load_dataset
from grace.identifiers.base import IdentifierTables, load_identifiers, read_tokenizer
from grace.model.flamingo import GraceFlamingo
from grace.model.language_models import local_files
from grace.model.prompts import Prompts, check_queries
from grace.records.stage import stage
from grace.system.errors import GraceError, did_you_mean
from grace.system.files import read_json
from grace.system.progress import busy
from grace.towers.embeddings import Embeddings, load_embeddings
from grace.training.distillation import Teacher, teach
from grace.training.head_start import start_projection
from grace.training.job import Job, settings_with_effect
from grace.training.pools import Pool, scheme_pools
from grace.training.run import about, run
from grace.training.starting_model import add_atomic_head, starting_model
from grace.training.validation import validation
from grace.workflow.config import Atomic, Flamingo, Training
from grace.workflow.schemes import SCHEMES


@stage("train")
def train(
    *,
    scheme: str,
    seed: int,
    dataset: Path,
    tokenizer: Path,
    embeddings: Path,
    pseudo_queries: Path,
    identifiers: Path,
    output: Path,
    state: Path,
    flamingo: Flamingo,
    training: Training,
    atomic_head: Atomic,
    start_from: Path | None = None,
    tower: Path | None = None,
) -> None:
    """Train `scheme` with `seed` and write the model folder `output`; resume from `state` if it holds an unfinished run."""
    _check_options(scheme, training, start_from, tower)
    data = _read(scheme, dataset, tokenizer, embeddings, identifiers)
    words, vectors, assigned = data.words, data.vectors, data.assigned
    with busy("making the model"):
        model = starting_model(flamingo, words, vectors.width, len(assigned.new_tokens), start_from, seed)
    if scheme == "atomic":
        add_atomic_head(model, assigned, data.tables, vectors, atomic_head, seed)
    _check_test_captions(data, model)
    pools, teacher = _samples(data, training, pseudo_queries, tower, model.max_length)
    if scheme == "atomic" and atomic_head.projection == "regression":
        with busy("solving for the first projection of the head"):
            start_projection(model, pools, vectors, words.pad_token_id, atomic_head.regression_samples, seed)
    settings = {
        "flamingo": flamingo.model_dump(),
        "training": settings_with_effect(training),
        "atomic_head": atomic_head.model_dump(),
    }
    read = [*_files(dataset, tokenizer, embeddings, pseudo_queries), *_starting_files(flamingo, start_from)]
    asked = validation(training, data.tables, assigned, vectors, data.prompts, model.max_length, seed)
    run(Job(
        stage="train", model=model, pools=pools, objective=SCHEMES[scheme].objective, seed=seed, embeddings=vectors,
        words=words, training=training, output=output, state=state, config=_config(data, model, flamingo, pseudo_queries, seed),
        settings=[settings, scheme, seed, assigned.fingerprint], inputs=read, validation=asked, teacher=teacher,
    ))  # fmt: skip


@dataclass(frozen=True)
class _Data:
    """What the stage reads: the data set, its embeddings, and the identifiers of the scheme."""

    tables: DatasetTables
    words: PreTrainedTokenizerFast
    vectors: Embeddings
    assigned: IdentifierTables
    seen: dict[str, Any]  # see `about`

    @property
    def prompts(self) -> Prompts:
        return Prompts(self.words)


def _read(scheme: str, dataset: Path, tokenizer: Path, embeddings: Path, identifiers: Path) -> _Data:
    tables, words, assigned = load_dataset(dataset), read_tokenizer(tokenizer), load_identifiers(identifiers)
    if assigned.scheme != scheme:
        raise GraceError(
            f"identifiers {identifiers} are of the scheme {assigned.scheme}, not {scheme}; name the right folder"
        )
    vectors = load_embeddings(embeddings, len(tables.images))
    return _Data(tables, words, vectors, assigned, about(tables, embeddings))


def _check_options(scheme: str, training: Training, start_from: Path | None, tower: Path | None) -> None:
    if scheme not in SCHEMES:
        raise GraceError(f"unknown identifier scheme '{scheme}'{did_you_mean(scheme, SCHEMES)}")
    if training.start_from != "scratch" and start_from is None:
        raise GraceError(f"train.start_from is {training.start_from}: name that model's folder with --start-from")
    if (tower is None) == bool(training.distillation):
        raise GraceError(
            "train.distillation needs the tower's folder (--tower), and nothing else reads it: give both or neither"
        )


def _check_test_captions(data: _Data, model: GraceFlamingo) -> None:
    """They are read after all trainings; one that is too long is an error before the first."""
    atomic = data.assigned.scheme == "atomic"
    longest = 0 if atomic else max(map(len, data.assigned.of_split("test")["tokens"]))
    queries = data.tables.captions_of("test")["text"].tolist()
    check_queries(data.prompts, queries, longest, model.max_length, "test caption")


def _samples(
    data: _Data, training: Training, pseudo_queries: Path, tower: Path | None, limit: int | None
) -> tuple[Sequence[Pool], Teacher | None]:
    """The pools, with the answers of the tower if it is a teacher; `limit`: longest sequence that the model reads, tokens."""
    pools = scheme_pools(data.tables, data.assigned, pseudo_queries, data.prompts, training, limit)
    if tower is None:
        return pools, None
    encoded_by = data.seen["vision_tower"] or {}
    teacher, taught = teach(
        pools, training.distillation, tower, encoded_by, data.assigned, data.tables, data.vectors, data.prompts
    )
    return taught, teacher


def _files(dataset: Path, tokenizer: Path, embeddings: Path, pseudo_queries: Path) -> list[Path]:
    """The files of the input folders that the result depends on; the identifiers have a fingerprint of their own."""
    return [
        dataset / "captions.parquet",
        pseudo_queries / "pseudo_queries.parquet",
        embeddings / "image_embeddings.npy",
        embeddings / "encode.json",
        tokenizer / "tokenizer.json",
    ]


def _starting_files(flamingo: Flamingo, start_from: Path | None) -> list[Path]:
    """The weights that the model starts from."""
    if start_from is not None:
        return [start_from / "model.safetensors"]
    return [*([Path(flamingo.checkpoint)] if flamingo.checkpoint else []), *local_files(flamingo)]


def _config(data: _Data, model: GraceFlamingo, flamingo: Flamingo, pseudo_queries: Path, seed: int) -> dict[str, Any]:
    """What config.json says of the model before it is trained."""
    counts = read_json(pseudo_queries / "pseudo_queries.json", "counts of pseudo-queries")
    return {
        "scheme": data.assigned.scheme,
        "seed": seed,
        "flamingo": flamingo.model_dump(),
        "visual_width": data.vectors.width,
        "new_tokens": len(data.assigned.new_tokens),
        "identifiers": data.assigned.fingerprint,
        "classes": len(model.atomic_head.classes) if data.assigned.scheme == "atomic" else 0,
        "class_width": int(data.vectors.vectors.shape[1]),
        "pseudo_queries": counts.get("source", ""),
        **data.seen,
    }
