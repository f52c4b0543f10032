"""The naive retrieve step, as in the published GRACE: the oracle and the baseline for our step.

Every sample has its own image file, which is read, decoded and sent through the frozen tower and the perceiver in every step,
although it is always the pad image; sequences are batched in the order drawn; the vocabulary head is applied at every
position, including prompt and padding, and the label mask is built by a loop over tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from grace.data.images import read_image
from grace.model.batches import IGNORE, Samples


def naive_loss(
    model: Any, tower: Any, images: Sequence[Path], samples: Samples, rows: np.ndarray, pad_id: int
) -> tuple[Tensor, int]:
    """The summed loss of the samples `rows` in nats and the number of supervised tokens; `images`: one file per sample.

    Visual tokens are rounded to fp16 as in the stage `encode`, so that both steps compute the same function.
    """
    _, tokens = tower.encode_images([read_image(file) for file in images])
    media = model.resample(tokens.clone().half().float())
    prompts, targets = [samples.prompts[row] for row in rows], [samples.targets[row] for row in rows]
    longest = max(len(prompt) + len(target) for prompt, target in zip(prompts, targets, strict=True))
    ids, mask, labels = [], [], []
    for prompt, target in zip(prompts, targets, strict=True):
        whole = prompt + target
        ids.append(whole + [pad_id] * (longest - len(whole)))
        mask.append([1] * len(whole) + [0] * (longest - len(whole)))
        labels.append([
            token if len(prompt) - 1 <= place < len(whole) else IGNORE for place, token in enumerate(ids[-1])
        ])  # fmt: skip
    hidden, _ = model.hidden_states(torch.tensor(ids), media, torch.tensor(mask))
    logits = model.head(hidden)[:, :-1].float()
    wanted = torch.tensor(labels)[:, 1:]
    loss = F.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=IGNORE, reduction="sum")
    return loss, int((wanted != IGNORE).sum())
