"""Two linear heads that map frozen features into one embedding space, trained like CLIP.

Legend: N images, M captions, F features, D embedding dimension, B pairs in a batch.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grace.system.progress import progress
from grace.workflow.config import EfficientNetLite0


class Heads(nn.Module):
    """One linear head per side. Features are first standardised with the mean and the scale of the train split."""

    def __init__(self, image_features: int, text_features: int, dimension: int) -> None:
        super().__init__()
        self.image_head = nn.Linear(image_features, dimension)
        self.text_head = nn.Linear(text_features, dimension)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        for side, width in (("image", image_features), ("text", text_features)):
            self.register_buffer(f"{side}_mean", torch.zeros(width))
            self.register_buffer(f"{side}_scale", torch.ones(1))

    def standardise(self, images_NF: Tensor, texts_MF: Tensor) -> None:
        """Set each side's mean feature vector, and its scale: the root mean square deviation over all rows."""
        for side, rows in (("image", images_NF), ("text", texts_MF)):
            mean = rows.mean(0)
            getattr(self, f"{side}_mean").copy_(mean)
            getattr(self, f"{side}_scale").copy_((rows - mean).square().mean().sqrt().clamp(min=1e-6)[None])

    def project_images(self, features: Tensor, dropout: float = 0.0) -> Tensor:
        """[..., F] to [..., D], not normalised; linear, so the mean of an image's cells projects to their mean projection."""
        standard = (features - self.image_mean) / self.image_scale
        return self.image_head(F.dropout(standard, dropout, self.training))

    def images(self, features_BF: Tensor, dropout: float = 0.0) -> Tensor:
        """Embeddings [B, D], L2-normalised."""
        return F.normalize(self.project_images(features_BF, dropout), dim=-1)

    def texts(self, features_BF: Tensor) -> Tensor:
        """Embeddings [B, D], L2-normalised."""
        return F.normalize(self.text_head((features_BF - self.text_mean) / self.text_scale), dim=-1)


def train_heads(
    images_NF: Tensor, texts_MF: Tensor, image_of_M: np.ndarray, settings: EfficientNetLite0, log: Path
) -> Heads:
    """Train the heads with a symmetric InfoNCE loss; caption m describes the image in row `image_of_M[m]`.

    An epoch uses every image once, with one of its captions drawn at random. Writes one line to `log` per epoch.
    """
    s, rng = settings, np.random.default_rng(settings.seed)
    torch.manual_seed(s.seed)
    heads = Heads(images_NF.shape[1], texts_MF.shape[1], s.embedding_dim)
    heads.standardise(images_NF, texts_MF)
    captions = [np.flatnonzero(image_of_M == row) for row in range(len(images_NF))]
    batch = min(s.batch_size, len(images_NF))
    per_epoch = len(images_NF) // batch
    optimizer = torch.optim.AdamW(heads.parameters(), lr=s.learning_rate, weight_decay=s.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, s.epochs * per_epoch)
    with open(log, "w", encoding="utf-8") as file:
        for epoch in progress(range(s.epochs), desc="heads", unit="epochs"):
            order, losses = rng.permutation(len(images_NF)), []
            for step in range(per_epoch):
                rows = order[step * batch : (step + 1) * batch]
                chosen = np.array([rng.choice(captions[row]) for row in rows])
                scale = heads.log_scale.clamp(max=math.log(100)).exp()
                similarity = scale * heads.images(images_NF[rows], s.dropout) @ heads.texts(texts_MF[chosen]).T
                target = torch.arange(batch)
                loss = (F.cross_entropy(similarity, target) + F.cross_entropy(similarity.T, target)) / 2
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                losses.append(loss.item())
            line = {
                "step": (epoch + 1) * per_epoch,
                "loss": float(np.mean(losses)),
                "learning_rate": schedule.get_last_lr()[0],
                "temperature": 1 / scale.item(),
            }
            file.write(json.dumps(line) + "\n")
    return heads.eval()
