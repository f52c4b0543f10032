"""The classification head of the atomic scheme (GRACE, section 3.2: one class per image).

score(q, i) = exp(s) * <normalise(P h), normalise(W_i)>, where h is the hidden state of the last real token after the final
norm, P a trained projection, W the class matrix, initialised with the image embeddings, and s a learned temperature. Always
fp32: neither casting the model nor training in bf16 rounds it.

DeepSpeed rounds every parameter of a model that it trains in bf16. The class matrix is therefore a buffer, unless it is
trained. For trained parameters, the fp32 master weights are passed in after every step (`keep_exact`): the head computes
with those, and gradients go to the rounded parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable

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
        classes_KD = class_matrix_KD.clone().float()
        if train_classes:
            self.classes = nn.Parameter(classes_KD)
        else:
            self.register_buffer("classes", classes_KD)
        self.log_scale = nn.Parameter(torch.tensor([-math.log(temperature)]))  # DeepSpeed needs an axis
        for name, _ in list(self.named_parameters()):
            self.register_buffer(_exact(name), None, persistent=False)

    def queries(self, hidden_BH: Tensor) -> Tensor:
        """Normalised query vectors, fp32 [B, D]."""
        weight_DH = self._value("projection.weight", self.projection.weight)
        with torch.autocast(hidden_BH.device.type, enabled=False):
            return F.normalize(F.linear(hidden_BH.float(), weight_DH), dim=-1)

    def forward(self, hidden_BH: Tensor, rows: Tensor | None = None) -> Tensor:
        """Logits, fp32 [B, K], for all classes or for the given rows of the class matrix."""
        classes_KD = self.class_matrix()
        chosen = classes_KD if rows is None else classes_KD[rows]
        with torch.autocast(hidden_BH.device.type, enabled=False):
            return self.scale() * self.queries(hidden_BH) @ F.normalize(chosen, dim=-1).T

    def class_matrix(self) -> Tensor:
        """The class matrix used in the computation, fp32 [K, D], not normalised."""
        return self._value("classes", self.classes)

    def scale(self) -> Tensor:
        """exp(s), at most 100: fp32 [1]."""
        return self._value("log_scale", self.log_scale).clamp(max=math.log(100.0)).exp()

    def keep_exact(self, values: dict[str, Tensor]) -> None:
        """From now on compute with these fp32 values of parameters (by name); gradients still go to the parameters."""
        for name, value in values.items():
            setattr(self, _exact(name), value.detach())

    def exact_values(self) -> dict[str, Tensor]:
        """The fp32 values passed to `keep_exact`, by parameter name."""
        found = {name: getattr(self, _exact(name)) for name, _ in self.named_parameters()}
        return {name: value for name, value in found.items() if value is not None}

    def _value(self, name: str, parameter: Tensor) -> Tensor:
        exact = getattr(self, _exact(name), None)
        value = parameter.float()
        return value if exact is None else exact + (value - value.detach())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> AtomicHead:
        """As for any module, such as a move to a device, but without a change of precision."""

        def in_fp32(tensor: Tensor) -> Tensor:
            made = fn(tensor)
            return made if made.dtype == tensor.dtype else tensor.to(made.device)

        return super()._apply(in_fp32, recurse)


def _exact(name: str) -> str:
    return f"exact_{name.replace('.', '_')}"
