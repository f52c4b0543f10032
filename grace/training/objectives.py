"""Training objectives: one function an objective, one line in `OBJECTIVES`.

A scheme names its objective in `grace.workflow.schemes`. An objective maps (model, batch) to (sum of losses in nats, number of
terms). `generate` stands on the word `id`, the identifier tokens and the end token only; `caption` on the whole caption;
`classify` is a softmax over all images. `media` are the batch's resampled images if they are at hand, `chunk` is the most
positions whose logits exist at a time (0: all), `teacher` the tower, where its answers are learned too.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from grace.model.batches import Batch, media_of
from grace.model.flamingo import GraceFlamingo
from grace.training.distillation import Teacher
from grace.training.losses import cross_entropy_sum


def generation_loss(
    model: GraceFlamingo, batch: Batch, media: Tensor | None = None, chunk: int = 0, teacher: Teacher | None = None
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the supervised tokens (GRACE, eq. 1 and 2); the vocabulary head is applied to those alone."""
    media = media_of(model, batch) if media is None else media
    hidden, _ = model.hidden_states(batch.input_ids, media, batch.attention_mask)
    soft = teacher.soft_targets(batch) if teacher and batch.teacher is not None else None
    loss = cross_entropy_sum(model.head, hidden[batch.supervised], batch.next_ids, chunk, soft)
    return loss, torch.tensor(float(len(batch.next_ids)))


def classification_loss(
    model: GraceFlamingo, batch: Batch, media: Tensor | None = None, chunk: int = 0, teacher: Teacher | None = None
) -> tuple[Tensor, Tensor]:
    """Cross-entropy over all images, read at the last real token."""
    media = media_of(model, batch) if media is None else media
    hidden, _ = model.hidden_states(batch.input_ids, media, batch.attention_mask)
    last = hidden[torch.arange(len(hidden), device=hidden.device), batch.last]
    loss = cross_entropy_sum(model.atomic_head, last, batch.labels, chunk)
    if teacher and batch.teacher is not None:
        loss = loss + teacher.distance(model.atomic_head.queries(last), batch)
    return loss, torch.tensor(float(len(last)))


OBJECTIVES: dict[str, Callable[..., tuple[Tensor, Tensor]]] = {
    "caption": generation_loss,
    "generate": generation_loss,
    "classify": classification_loss,
}
