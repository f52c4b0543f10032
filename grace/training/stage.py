"""The stage `train`: one scheme of identifiers into one model; and `train_model`, which the captioner shares.

Reads the dataset, tokenizer, embeddings, pseudo-queries and identifiers folders (and the captioner's, to start from it);
writes a model folder: `model.safetensors`, `config.json`, tokenizer, `README.md` (the model card), `metrics.jsonl`,
`tensorboard/`, and `validation.jsonl` if it was validated. The resumable state
lives in its own folder, which is deleted when the model is complete: a rerun after a kill goes on, a forced rerun starts
anew.

    python -m grace train --scheme structured --seed 0 --dataset ... --output results/scenes/structured/seed0/model
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from grace.data.tables import DatasetTables, load_dataset
from grace.identifiers.base import load_identifiers, read_tokenizer
from grace.model.atomic_head import AtomicHead
from grace.model.checkpoints import read_config, save_model
from grace.model.flamingo import GraceFlamingo, add_tokens, build
from grace.model.language_models import describe, local_files
from grace.model.prompts import Prompts, check_queries
from grace.model.published import load_flamingo
from grace.records.provenance import provenance
from grace.records.stage import stage
from grace.system.errors import GraceError, did_you_mean
from grace.system.files import check_output_folder, need, read_json, replacing_folder
from grace.system.weights import load_weights
from grace.towers.embeddings import load_embeddings
from grace.training.card import model_card
from grace.training.deepspeed_engine import is_first_process, world_size
from grace.training.distillation import teach
from grace.training.engine import train_model
from grace.training.head_start import start_projection
from grace.training.pools import scheme_pools
from grace.training.resume import told_where
from grace.training.state import SAYS_NOTHING_OF_THE_RESULT, TrainingState, state_key
from grace.training.validation import Validations, validation
from grace.workflow.config import Atomic, Training
from grace.workflow.config import Flamingo as FlamingoSettings
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
    flamingo: FlamingoSettings,
    training: Training,
    atomic_head: Atomic,
    start_from: Path | None = None,
    tower: Path | None = None,
) -> None:
    """Train `scheme` with `seed` and write the model folder `output`; resume from `state` if it holds an unfinished run."""
    if scheme not in SCHEMES:
        raise GraceError(f"unknown identifier scheme '{scheme}'{did_you_mean(scheme, SCHEMES)}")
    tables, words = load_dataset(dataset), read_tokenizer(tokenizer)
    assigned = load_identifiers(identifiers)
    if assigned.scheme != scheme:
        raise GraceError(
            f"identifiers {identifiers} are of the scheme {assigned.scheme}, not {scheme}; name the right folder"
        )
    if training.start_from != "scratch" and start_from is None:
        raise GraceError(f"train.start_from is {training.start_from}: name that model's folder with --start-from")
    if (tower is None) == bool(training.distillation):
        raise GraceError(
            "train.distillation needs the tower's folder (--tower), and nothing else reads it: give both or neither"
        )
    vectors = load_embeddings(embeddings, len(tables.images))
    model = _start(flamingo, words, vectors.width, assigned.new_tokens, start_from, seed)
    prompts = Prompts(words)
    if scheme == "atomic":
        _add_atomic_head(model, assigned, tables, vectors, atomic_head, seed)
    longest = 0 if scheme == "atomic" else max(map(len, assigned.of_split("test")["tokens"]))
    queries = tables.captions_of("test")["text"].tolist()
    check_queries(prompts, queries, longest, model.max_length, "test caption")
    pools, guide = scheme_pools(tables, assigned, pseudo_queries, prompts, training, model.max_length), None
    said = about(tables, embeddings)
    if tower:
        encoded_by = said["vision_tower"] or {}
        guide, pools = teach(pools, training.distillation, tower, encoded_by, assigned, tables, vectors, prompts)
    if scheme == "atomic" and atomic_head.projection == "regression":
        start_projection(model, pools, vectors, words.pad_token_id, atomic_head.regression_samples, seed)
    settings = {
        "flamingo": flamingo.model_dump(),
        "training": training.model_dump(exclude=set(SAYS_NOTHING_OF_THE_RESULT)),
        "atomic_head": atomic_head.model_dump(),
    }
    read = [
        dataset / "captions.parquet",
        pseudo_queries / "pseudo_queries.parquet",
        embeddings / "image_embeddings.npy",
        embeddings / "encode.json",
        tokenizer / "tokenizer.json",
        *([start_from / "model.safetensors"] if start_from else []),
        *([Path(flamingo.checkpoint)] if flamingo.checkpoint and not start_from else []),
        *([] if start_from else local_files(flamingo)),
    ]
    asks = validation(training, tables, assigned, vectors, prompts, model.max_length, seed)
    key = state_key("train", [settings, scheme, seed, assigned.fingerprint], read)
    config = {
        "scheme": scheme,
        "seed": seed,
        "flamingo": flamingo.model_dump(),
        "visual_width": vectors.width,
        "new_tokens": len(assigned.new_tokens),
        "identifiers": assigned.fingerprint,
        "classes": len(model.atomic_head.classes) if scheme == "atomic" else 0,
        "class_width": int(vectors.vectors.shape[1]),
        "pseudo_queries": read_json(pseudo_queries / "pseudo_queries.json", "counts of pseudo-queries").get(
            "source", ""
        ),
        **said,
    }
    objective = SCHEMES[scheme].objective
    run("train", model, pools, objective, seed, vectors, words, training, state, key, output, config, asks, guide)


def about(tables: DatasetTables, embeddings: Path) -> dict[str, Any]:
    """What a model folder says of what its model has seen: the data set, and the frozen tower, named by its weights' hash."""
    said = read_json(need(embeddings / "encode.json", "encode.json"))
    summary = {key: tables.summary.get(key) for key in ("name", "license", "counts")}
    return {"dataset": summary, "vision_tower": said.get("tower")}


def run(
    stage, model, pools, objective, seed, vectors, words, training, state, key, output, config, asks=None, guide=None
) -> None:
    """Train `model` and write the model folder as an output of `stage`; every process of a distributed run calls this."""
    if config["flamingo"]["language_model"] == "pretrained":  # the folder is to load where no hub can be reached
        config = {**config, "language_model": describe(model.lang_encoder)}
    check_output_folder(output, stage)
    with TrainingState(state, key) as kept:
        tensors = train_model(
            model, pools, objective, seed, vectors, words.pad_token_id, training, kept, asks, guide, output
        )
        if is_first_process():
            where = output.resolve().parent
            with told_where(kept, "the model", folder=where), replacing_folder(output, stage) as folder:
                best = Validations(kept, training.validate_measure).export(folder)
                config = {
                    **config,
                    "validation": best,
                    "processes": world_size(),
                    "provenance": provenance(training.model_dump()),
                }
                save_model(folder, tensors, config, words)
                kept.export_logs(folder)
                (folder / "README.md").write_text(model_card(config, training, tensors), encoding="utf-8")
            kept.finish()


def _start(flamingo, words, width, new_tokens, start_from: Path | None, seed: int) -> GraceFlamingo:
    """The model before training: fresh, from a checkpoint, or the captioner's weights; identifier tokens added."""
    model = build(flamingo, words, width, pretrained=start_from is None)
    if start_from is not None:
        if read_config(start_from)["flamingo"] != flamingo.model_dump():
            raise GraceError(f"the model {start_from} has other flamingo settings than this run; train it again")
        load_weights(start_from / "model.safetensors", model, leave_out=("atomic_head.",))
    elif flamingo.checkpoint:
        load_flamingo(Path(flamingo.checkpoint), model, flamingo.language_model == "pretrained")
    add_tokens(model, len(words) + len(new_tokens), seed)
    return model


def _add_atomic_head(model, assigned, tables, vectors, settings: Atomic, seed: int) -> None:
    """Give the model its class matrix, started as the image embeddings in the order of the class numbers."""
    row_of = {image: row for row, image in enumerate(tables.images["image_id"])}
    number = assigned.table["tokens"].map(lambda tokens: int(tokens[0]))
    order = assigned.table.assign(number=number).drop_duplicates("number").sort_values("number")
    if order["number"].tolist() != list(range(len(order))):
        raise GraceError(
            f"identifiers {assigned.folder}: the class numbers are not 0 .. {len(order) - 1}; run identifiers again"
        )
    classes = torch.from_numpy(vectors.vectors[[row_of[image] for image in order["image_id"]]].copy())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        width = model.lang_encoder.get_input_embeddings().embedding_dim
        model.atomic_head = AtomicHead(width, classes, settings.temperature, settings.train_class_matrix)
