"""The classification head of the atomic scheme (GRACE, section 3.2: one class an image).

score(q, i) = exp(s) * <normalise(P h), normalise(W_i)>: h the hidden state of the last real token after the final norm, P a
trained projection, W the class matrix that starts as the image embeddings, s a learned temperature. Always fp32.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class AtomicHead(nn.Module):
    def __init__(
        self, width: int, class_matrix_KD: Tensor, temperature: float = 0.07, train_classes: bool = False
    ) -> None:
        super().__init__()
        self.projection = nn.Linear(width, class_matrix_KD.shape[1], bias=False)
        self.train_classes = train_classes
        self.classes = nn.Parameter(class_matrix_KD.clone().float(), requires_grad=train_classes)
        self.log_scale = nn.Parameter(torch.tensor([-math.log(temperature)]))  # DeepSpeed wants an axis

    def queries(self, hidden_BH: Tensor) -> Tensor:
        """Normalised query vectors, fp32 [B, D]."""
        with torch.autocast(hidden_BH.device.type, enabled=False):
            return F.normalize(F.linear(hidden_BH.float(), self.projection.weight.float()), dim=-1)

    def forward(self, hidden_BH: Tensor, rows: Tensor | None = None) -> Tensor:
        """Logits, fp32 [B, K], of all classes or of the given rows of the class matrix."""
        classes = self.classes if rows is None else self.classes[rows]
        with torch.autocast(hidden_BH.device.type, enabled=False):
            return self.scale() * self.queries(hidden_BH) @ F.normalize(classes.float(), dim=-1).T

    def scale(self) -> Tensor:
        """exp(s), at most 100: fp32 [1]."""
        return self.log_scale.float().clamp(max=math.log(100.0)).exp()
