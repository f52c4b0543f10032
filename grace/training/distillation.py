"""Distillation: the frozen tower as a teacher. A caption of a photograph fits other photographs too, and the tower says which.

- atomic: the query vector of a caption is drawn to the tower's embedding of the caption, by one minus their cosine (embedding
  distillation, Reimers and Gurevych, arXiv 2004.09813; both have length 1).
- identifiers: at the tokens of a pseudo-query's identifier the model learns what the tower says of the next token (word-level
  distillation, Kim and Rush, arXiv 1606.07947). The tower's softmax over the gallery's images, at its own temperature, each
  image's share dealt equally to its identifiers, is a distribution over identifiers; among those that begin as the pseudo-query's
  does up to this token, it says how likely each next token is. An identifier that is the caption itself (semantic) has no share,
  as it would teach to copy, unless its image has no other: so do the samples (grace/training/pools.py).

Every process encodes the captions once, when the training starts and when it is resumed, and keeps float32 [different captions,
D]; the tower itself is freed. Part of the stage `train`.

Legend: B sequences, U different captions, D dimension of the embeddings, G gallery images, M most identifiers of one, I gallery
identifiers, P tokens of the longest with its end token, C candidates (identifiers of the nearest images), S supervised positions.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from grace.data.tables import DatasetTables
from grace.identifiers.base import IdentifierTables
from grace.model.batches import Batch
from grace.model.prompts import Prompts
from grace.system.errors import GraceError
from grace.system.progress import busy
from grace.system.weights import weights_digest
from grace.towers.embeddings import Embeddings
from grace.training.pools import Pool

NEAREST = 100
"""Gallery images of a caption that count; the softmax leaves the others next to nothing."""
ENCODED = 1024
"""Captions that are encoded at a time."""
NONE = -1  # no identifier, no token, no caption


@dataclass(frozen=True)
class Gallery:
    """What the tower ranks, and the identifiers that this is said in."""

    images_GD: Tensor  # f32, of length 1
    identifiers_GM: Tensor  # int64: rows of `paths_IP`, then NONE
    paths_IP: Tensor  # int64: the tokens of an identifier and its end token, then NONE
    caption_I: Tensor  # int64: the caption (row of Samples.teacher) that an identifier is (scheme semantic), or NONE

    def to(self, device: torch.device) -> Gallery:
        return Gallery(**{name: value.to(device) for name, value in vars(self).items()})


@dataclass
class Teacher:
    """What the tower answers; `gallery` is None for atomic."""

    weight: float
    temperature: float = 1.0
    gallery: Gallery | None = None

    def distance(self, queries_BD: Tensor, batch: Batch) -> Tensor:
        """`weight` times the sum over the batch of one minus the cosine, a scalar; `queries_BD` have length 1."""
        return self.weight * (1 - (queries_BD * batch.teacher).sum(-1)).sum()

    def soft_targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(tokens int64 [S, C], weights f32 [S, C]): the tower's next tokens at every supervised position.

        The weights of a position sum up to `weight`; to 0 where the word `id` is predicted, and where no candidate begins as the
        sample's own identifier does.
        """
        device = batch.supervised.device
        if self.gallery.images_GD.device != device:
            self.gallery = self.gallery.to(device)
        sample_S = batch.supervised.nonzero()[:, 0]
        count_B = batch.supervised.sum(1)
        tokens_BCP, scores_BC, known_BC = self._candidates(batch, int(count_B.max()) - 1)
        width = tokens_BCP.shape[2]
        depth_S = torch.arange(len(sample_S), device=device) - (count_B.cumsum(0) - count_B)[sample_S]
        depth_S = depth_S - 1  # the first supervised token is the word `id`
        inside_S = (depth_S >= 0) & (depth_S < width)
        own_BP = torch.full((len(count_B), width), NONE, device=device)
        own_BP[sample_S[inside_S], depth_S[inside_S]] = batch.next_ids[inside_S]
        apart_BCP = (tokens_BCP != own_BP[:, None]).cumsum(2, dtype=torch.int16)
        begins_BCP = F.pad(apart_BCP, (1, -1)) == 0
        at_S = depth_S.clamp(0, width - 1)
        tokens_SC = tokens_BCP[sample_S, :, at_S]
        alive_SC = known_BC[sample_S] & begins_BCP[sample_S, :, at_S] & inside_S[:, None] & (tokens_SC != NONE)
        some_S1 = alive_SC.any(1, keepdim=True)
        scores_SC = scores_BC[sample_S].masked_fill(~alive_SC, -torch.inf).masked_fill(~some_S1, 0.0)
        return tokens_SC.clamp_min(0), self.weight * some_S1 * scores_SC.softmax(1)

    def _candidates(self, batch: Batch, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """Of the identifiers of the nearest images: first `width` tokens [B, C, P], log-shares f32 [B, C] up to a constant, and
        which have a share. C is the most that a caption has: one image with hundreds makes no table of hundreds for each."""
        gallery = self.gallery
        scores_BG = batch.teacher @ gallery.images_GD.T / self.temperature
        nearest = scores_BG.topk(min(NEAREST, scores_BG.shape[1]), dim=1)
        rows_BKM = gallery.identifiers_GM[nearest.indices]
        there_BKM, rows_BKM = rows_BKM != NONE, rows_BKM.clamp_min(0)
        may_BKM = there_BKM & (gallery.caption_I[rows_BKM] != batch.caption[:, None, None])
        may_BKM = torch.where(may_BKM.any(-1, keepdim=True), may_BKM, there_BKM)
        scores_BKM = (nearest.values[..., None] - may_BKM.sum(-1, keepdim=True).log()).expand_as(rows_BKM)
        known_BC = may_BKM.flatten(1)
        first_BC = known_BC.long().argsort(dim=1, descending=True, stable=True)[:, : int(known_BC.sum(1).max())]
        rows_BC, scores_BC, known_BC = (part.flatten(1).gather(1, first_BC) for part in (rows_BKM, scores_BKM, may_BKM))
        return gallery.paths_IP[:, :width][rows_BC], scores_BC, known_BC


def teach(
    pools: Sequence[Pool], weight: float, tower: Path, encoded_by: dict[str, Any], assigned: IdentifierTables,
    tables: DatasetTables, vectors: Embeddings, prompts: Prompts,
) -> tuple[Teacher, list[Pool]]:  # fmt: skip
    """The tower of the folder `tower` as a teacher with `weight`, and the pools with its answers.

    All captions of atomic are taught, whose query vector is the same for any image; else the pseudo-queries, as it is the gallery
    that the tower ranks. `encoded_by` is what encode.json says of the tower of the image embeddings; another tower raises a
    `GraceError`.
    """
    from grace.towers import open_tower

    atomic = assigned.scheme == "atomic"
    kinds = ("retrieve", "pseudo") if atomic else ("pseudo",)
    captions = dict.fromkeys(text for pool in pools if pool.kind in kinds for text in pool.captions)
    if not captions:
        missing, key = ("captions", "") if atomic else ("pseudo-queries", " or pseudo_query_share")
        raise GraceError(
            f"train.distillation is {weight:g}, but {assigned.scheme} has no {missing} in its batches; raise "
            f"train.{assigned.scheme}.retrieve_batch{key}, or set distillation: 0"
        )
    if torch.cuda.is_available():  # a process of several opens it on its own GPU
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    with busy("loading the tower"):
        encoder = open_tower(tower)
    same = weights_digest(encoder.model) == encoded_by.get("weights_sha256")
    if not same or getattr(encoder, "activation", None) != encoded_by.get("activation"):
        raise GraceError(
            f"tower {tower} is not the one that encoded the images; name that one, or encode the images again"
        )
    place = {text: row for row, text in enumerate(captions)}
    with busy(f"encoding {len(place):,} captions with the tower"):
        answers_UD = _encoded(encoder, list(place))
    temperature = encoder.temperature
    del encoder
    gc.collect()  # imports that it was the first to make may hold it in a cycle
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    taught = [_with_answers(pool, answers_UD, place) if pool.kind in kinds else pool for pool in pools]
    return Teacher(weight, temperature, None if atomic else _gallery(assigned, tables, vectors, prompts, place)), taught


def _encoded(encoder: Any, texts: list[str]) -> np.ndarray:
    """Embeddings float32 [texts, D], of length 1, in one array that is filled part by part."""
    from grace.towers.text_side import encode_captions

    out = np.empty((0, 0), dtype=np.float32)
    for start in range(0, len(texts), ENCODED):
        part = encode_captions(texts[start : start + ENCODED], encoder.encode_text, ENCODED)
        if not start:
            out = np.empty((len(texts), part.shape[1]), dtype=np.float32)
        out[start : start + len(part)] = part
    return out


def _with_answers(pool: Pool, answers_UD: np.ndarray, place: dict[str, int]) -> Pool:
    rows = np.array([place[text] for text in pool.captions], dtype=np.int64)
    return replace(pool, samples=replace(pool.samples, teacher=answers_UD, captions=rows))


def _gallery(
    assigned: IdentifierTables, tables: DatasetTables, vectors: Embeddings, prompts: Prompts, place: dict[str, int]
) -> Gallery:
    """The gallery images (val images too, where a training is validated) and their identifiers."""
    table = assigned.table[assigned.table["split"] != "train"]
    image_I, images = pd.factorize(table["image_id"])
    number_I = table.groupby("image_id").cumcount().to_numpy()
    identifiers = np.full((len(images), number_I.max() + 1), NONE)
    identifiers[image_I, number_I] = np.arange(len(table))
    row_of = pd.Series(tables.images.index, index=tables.images["image_id"])
    embeddings = torch.from_numpy(np.array(vectors.vectors[row_of[images].to_numpy()], dtype=np.float32))
    targets = [torch.tensor(target) for target in prompts.identifier_targets(table["tokens"].tolist())]
    return Gallery(
        images_GD=F.normalize(embeddings, dim=-1),
        identifiers_GM=torch.from_numpy(identifiers),
        paths_IP=torch.nn.utils.rnn.pad_sequence(targets, batch_first=True, padding_value=NONE),
        caption_I=torch.tensor([place.get(text, NONE) for text in table["text"]]),
    )
