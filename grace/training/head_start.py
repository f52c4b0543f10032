"""A start for the projection of the atomic head: the ridge regression of image embeddings on hidden states.

A random projection has to be found by gradient descent while the language model below it moves. The hidden states of a pretrained
language model say something of their caption from the first step on; the linear map that brings them nearest to the embeddings
of their images is had in one solve. Part of the stage `train`, before its first step.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from grace.model.batches import Samples, collate, media_of
from grace.model.flamingo import GraceFlamingo
from grace.towers.embeddings import Embeddings
from grace.training.pools import Pool

BATCH = 100
RIDGE = 0.1  # of the mean square of a hidden state's entry


@torch.no_grad()
def start_projection(
    model: GraceFlamingo, pools: Sequence[Pool], embeddings: Embeddings, pad_id: int, count: int, seed: int
) -> None:
    """Set the projection of `model.atomic_head` from `count` samples of the pools, as many of each as its batches have.

    Minimises the mean of |P h - w|^2 over the samples, h the hidden state that the head reads and w the normalised class
    embedding, plus RIDGE x (the mean square of an entry of h) x |P|^2. Solved in float64.
    """
    rng = np.random.default_rng([seed, 3])
    total = sum(pool.batch for pool in pools)
    hidden, targets = [], []
    model.eval()
    for pool in pools:
        number = min(len(pool.samples), round(count * pool.batch / total))
        rows = rng.choice(len(pool.samples), number, replace=False)
        hidden.append(_hidden(model, pool.samples, rows, embeddings, pad_id, pool.kind))
        targets.append(torch.from_numpy(pool.samples.labels[rows]))
    hidden_SH = torch.cat(hidden).double()
    classes_SD = torch.nn.functional.normalize(model.atomic_head.classes[torch.cat(targets)].double(), dim=-1)
    gram_HH = hidden_SH.T @ hidden_SH
    gram_HH += RIDGE * gram_HH.diagonal().mean() * torch.eye(len(gram_HH), dtype=torch.double)
    weight_HD = torch.linalg.solve(gram_HH, hidden_SH.T @ classes_SD)
    model.atomic_head.projection.weight.copy_(weight_HD.T)
    model.train()


def _hidden(
    model: GraceFlamingo, samples: Samples, rows: np.ndarray, embeddings: Embeddings, pad_id: int, kind: str
) -> Tensor:
    """Hidden states at the last real token, float32 [rows, H], in the order of `rows`."""
    device = next(model.parameters()).device
    order = np.argsort(samples.lengths()[rows], kind="stable")
    parts = []
    for start in range(0, len(order), BATCH):
        batch = collate(samples, rows[order[start : start + BATCH]], embeddings, pad_id, kind, 1).to(device)
        states, _ = model.hidden_states(batch.input_ids, media_of(model, batch), batch.attention_mask)
        parts.append(states[torch.arange(len(states), device=device), batch.last].float().cpu())
    return torch.cat(parts)[torch.from_numpy(np.argsort(order))]
