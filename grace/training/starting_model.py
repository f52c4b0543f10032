"""The model of a scheme before its first step: fresh, from published weights, or from another model of this project."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import PreTrainedTokenizerFast

from grace.data.tables import DatasetTables
from grace.identifiers.base import IdentifierTables
from grace.model.atomic_head import AtomicHead
from grace.model.checkpoints import read_config
from grace.model.flamingo import GraceFlamingo, add_tokens, build
from grace.model.published import load_flamingo
from grace.system.errors import GraceError
from grace.system.weights import load_weights
from grace.towers.embeddings import Embeddings
from grace.workflow.config import Atomic, Flamingo


def starting_model(
    flamingo: Flamingo, words: PreTrainedTokenizerFast, visual_width: int, new_tokens: int, start_from: Path | None,
    seed: int,
) -> GraceFlamingo:  # fmt: skip
    """A Flamingo for the vocabulary `words` and `new_tokens` identifier tokens, whose rows are random by `seed`.

    Its weights are those of the model folder `start_from`, else of `flamingo.checkpoint`, else fresh. A `GraceError` where
    that folder has a model of other settings.
    """
    model = build(flamingo, words, visual_width, pretrained=start_from is None)
    if start_from is not None:
        if read_config(start_from)["flamingo"] != flamingo.model_dump():
            raise GraceError(f"the model {start_from} has other flamingo settings than this run; train it again")
        load_weights(start_from / "model.safetensors", model, leave_out=("atomic_head.",))
    elif flamingo.checkpoint:
        load_flamingo(Path(flamingo.checkpoint), model, flamingo.language_model == "pretrained")
    add_tokens(model, len(words) + new_tokens, seed)
    return model


def add_atomic_head(
    model: GraceFlamingo, assigned: IdentifierTables, tables: DatasetTables, vectors: Embeddings, settings: Atomic,
    seed: int,
) -> None:  # fmt: skip
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
