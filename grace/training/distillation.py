"""Distillation: the frozen tower as a teacher. A caption of a photograph fits other photographs too, and the tower says which.

- atomic: the query vector of a caption is drawn to the tower's embedding of the caption, by one minus their cosine (embedding
  distillation, Reimers and Gurevych, arXiv 2004.09813; both have length 1).
- identifiers: at every token of a pseudo-query's identifier the model learns what the tower says of the next token (word-level
  distillation, Kim and Rush, arXiv 1606.07947). The tower's softmax over the gallery, at its own temperature, is a distribution
  over identifiers; among those that begin as the pseudo-query's does up to this token, it says how likely each next token is.

Legend: B sequences, D dimension of the embeddings, G gallery identifiers, K the nearest of them, P tokens of the longest
identifier with its end token, S supervised positions. Part of the stage `train`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from grace.data.tables import DatasetTables
from grace.embeddings import Embeddings
from grace.identifiers.base import IdentifierTables
from grace.prompts import Prompts
from grace.training.samples import Batch

NEAREST = 100
"""Gallery identifiers of a caption that count; the softmax leaves the others next to nothing."""
NO_TOKEN = -1


@dataclass
class Teacher:
    """What the tower answers. `embed` maps captions to float32 [n, D], of length 1."""

    weight: float
    embed: Callable[[list[str]], np.ndarray]
    temperature: float = 1.0
    gallery_GD: Tensor | None = None  # f32: the embedding of each identifier's image; None for atomic
    paths_GP: Tensor | None = None  # int64: the tokens of each identifier and its end token, then NO_TOKEN

    def distance(self, queries_BD: Tensor, batch: Batch) -> Tensor:
        """`weight` times the sum over the batch of one minus the cosine, a scalar; `queries_BD` have length 1."""
        return self.weight * (1 - (queries_BD * batch.teacher).sum(-1)).sum()

    def soft_targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(tokens int64 [S, K], weights f32 [S, K]): the tower's next tokens at every supervised position.

        The weights of a position sum up to `weight`; to 0 where the word `id` is predicted, and where none of the K nearest
        identifiers begins as the sample's own does.
        """
        device = batch.supervised.device
        if self.gallery_GD.device != device:
            self.gallery_GD, self.paths_GP = self.gallery_GD.to(device), self.paths_GP.to(device)
        sample_S = batch.supervised.nonzero()[:, 0]
        count_B = batch.supervised.sum(1)
        place_S = torch.arange(len(sample_S), device=device) - (count_B.cumsum(0) - count_B)[sample_S]
        depth_S = place_S - 1  # the first supervised token is the word `id`
        scores_BG = batch.teacher @ self.gallery_GD.T / self.temperature
        nearest = scores_BG.topk(min(NEAREST, len(self.gallery_GD)), dim=1)
        share_BK, paths_BKP = nearest.values.softmax(1), self.paths_GP[nearest.indices]
        width = self.paths_GP.shape[1]
        own_BP = torch.full((len(count_B), width), NO_TOKEN, device=device)
        inside = (depth_S >= 0) & (depth_S < width)
        own_BP[sample_S[inside], depth_S[inside]] = batch.next_ids[inside]
        same_BKP = (paths_BKP == own_BP[:, None]).long().cumprod(2)
        begins_BKP = torch.cat([torch.ones_like(same_BKP[:, :, :1]), same_BKP[:, :, :-1]], 2)
        at_S = depth_S.clamp(0, width - 1)
        tokens_SK = paths_BKP[sample_S, :, at_S]
        weights_SK = share_BK[sample_S] * begins_BKP[sample_S, :, at_S] * inside[:, None] * (tokens_SK != NO_TOKEN)
        total_S1 = weights_SK.sum(1, keepdim=True)
        weights_SK = torch.where(total_S1 > 0, self.weight * weights_SK / total_S1.clamp_min(1e-30), 0.0)
        return tokens_SK.clamp_min(0), weights_SK


def teacher(
    weight: float, tower: Path, assigned: IdentifierTables, tables: DatasetTables, vectors: Embeddings, prompts: Prompts
) -> Teacher:
    """The tower of the folder `tower` as the teacher of a scheme, with `weight`."""
    from grace.baselines.dual_encoder import encode_captions
    from grace.towers import open_tower

    encoder = open_tower(tower)

    def embed(texts: list[str]) -> np.ndarray:
        place = {text: row for row, text in enumerate(dict.fromkeys(texts))}  # each different caption once
        return encode_captions(list(place), encoder.encode_text, 1024)[[place[text] for text in texts]]

    if assigned.scheme == "atomic":
        return Teacher(weight, embed)
    gallery = assigned.table[assigned.table["split"] != "train"]
    row_of = {image: row for row, image in enumerate(tables.images["image_id"])}
    rows = [row_of[image] for image in gallery["image_id"]]
    targets = prompts.identifier_targets(gallery["tokens"].tolist())
    paths = torch.nn.utils.rnn.pad_sequence(
        [torch.tensor(target) for target in targets], batch_first=True, padding_value=NO_TOKEN
    )
    embeddings = torch.from_numpy(np.array(vectors.vectors[rows], dtype=np.float32))
    return Teacher(weight, embed, encoder.temperature, torch.nn.functional.normalize(embeddings, dim=-1), paths)
