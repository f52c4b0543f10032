"""Memorisation accuracy: does the model, given an image, write that image's own identifier?

Greedy decoding over the full vocabulary, without the trie; exact match, end token included. One teacher-forced pass is
enough: greedy decoding writes an identifier exactly if the best token at each of its positions is its own. An image with
several identifiers counts if one of them is written. Atomic: the best of all classes is the image's own.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from grace.data.tables import DatasetTables
from grace.identifiers.base import IdentifierTables
from grace.model.batches import Samples, collate, media_of
from grace.model.prompts import Prompts
from grace.system.progress import progress
from grace.towers.embeddings import Embeddings


@torch.inference_mode()
def memorization(
    model, assigned: IdentifierTables, tables: DatasetTables, embeddings: Embeddings, prompts: Prompts, pad_id: int,
    batch_size: int = 128,
) -> dict[str, dict]:  # fmt: skip
    """{"correct", "images", "rate"} of the gallery ("test") and of the train images ("train")."""
    table, atomic = assigned.table, assigned.scheme == "atomic"
    row_of = pd.Series(tables.images.index, index=tables.images["image_id"])
    targets = [[] for _ in range(len(table))] if atomic else prompts.identifier_targets(table["tokens"].tolist())
    labels = np.array([int(t[0]) for t in table["tokens"]]) if atomic else np.empty(0, dtype=np.int64)
    prompt = prompts.memorize(assigned.scheme)
    samples = Samples([prompt] * len(table), targets, row_of[table["image_id"]].to_numpy(), labels)
    order = np.argsort(samples.lengths(), kind="stable")
    right = np.zeros(len(table), dtype=bool)
    device = next(model.parameters()).device
    for start in progress(range(0, len(order), batch_size), desc="memorisation", unit="batches"):
        rows = order[start : start + batch_size]
        batch = collate(samples, rows, embeddings, pad_id, "memorize", 0).to(device)
        hidden, _ = model.hidden_states(batch.input_ids, media_of(model, batch), batch.attention_mask)
        if atomic:
            last = hidden[torch.arange(len(rows), device=device), batch.last]
            right[rows] = (model.atomic_head(last).argmax(-1) == batch.labels).cpu().numpy()
        else:
            hits = torch.zeros_like(batch.supervised)
            hits[batch.supervised] = model.head(hidden[batch.supervised]).argmax(-1) == batch.next_ids
            right[rows] = (hits | ~batch.supervised).all(1).cpu().numpy()
    out = {}
    for split in ("test", "train"):
        here = table["split"] == split
        images = pd.Series(right[here.to_numpy()]).groupby(table.loc[here, "image_id"].to_numpy()).any()
        out[split] = {
            "correct": int(images.sum()),
            "images": len(images),
            "rate": float(images.mean()) if len(images) else 0.0,
        }
    return out
