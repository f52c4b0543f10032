"""Save, load and hash network weights as safetensors files, with strict names.

Loading compares the names both ways; a missing, unexpected or misshapen tensor is an error.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from grace.system.errors import GraceError
from grace.system.files import need, replacing


def unique_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and persistent buffer once, under its first name."""
    kept = set(model.state_dict())
    found = {name: value for name, value in model.named_parameters() if name in kept}
    found |= {name: value for name, value in model.named_buffers() if name in kept}
    return found


def weights_digest(model: nn.Module) -> str:
    """sha256 (hex) of a model's weights (names, shapes, fp32 values), to identify frozen parts not stored with a model."""
    digest = hashlib.sha256()
    for name, value in sorted(unique_tensors(model).items()):
        digest.update(f"{name}\0{list(value.shape)}\0".encode())
        digest.update(value.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def save_weights(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    with replacing(path) as temporary:
        plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        save_file(plain, temporary, metadata={"format": "pt", **(metadata or {})})


def load_weights(path: Path, model: nn.Module, leave_out: tuple[str, ...] = ()) -> None:
    """Copy the tensors of a safetensors file into `model`; names and shapes must match exactly.

    Only tensors in the file whose names start with one of `leave_out` are ignored.
    """
    need(path, "weights file")
    targets = unique_tensors(model)
    try:
        with safe_open(path, framework="pt") as file:
            names = {name for name in file.keys() if not name.startswith(leave_out)}  # noqa: SIM118
            missing = sorted(set(targets) - names)
            unexpected = sorted(names - set(targets))
            if missing or unexpected:
                raise GraceError(
                    f"weights {path} do not fit the model: missing {_some(missing)}; unexpected {_some(unexpected)}"
                )
            with torch.no_grad():
                for name in sorted(names):
                    value = file.get_tensor(name)
                    if value.shape != targets[name].shape:
                        raise GraceError(
                            f"weights {path}: {name} has the shape {list(value.shape)}, expected {list(targets[name].shape)}"
                        )
                    targets[name].copy_(value)
    except (SafetensorError, OSError) as error:
        raise GraceError(f"weights {path} are not a readable safetensors file ({error}); make them again") from None


def _some(names: list[str]) -> str:
    return "none" if not names else ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
