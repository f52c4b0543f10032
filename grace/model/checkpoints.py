"""Weights in and out: safetensors under a strict key table.

A model folder holds `model.safetensors` (every tensor once: open_flamingo reaches its blocks under several names),
`config.json` and the tokenizer. Loading compares the names both ways; a missing, unexpected or misshapen one is an error.
The inference build needs nothing else: no DeepSpeed, no hub.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from grace.config import Flamingo as FlamingoSettings
from grace.config import parse
from grace.errors import GraceError
from grace.files import need, read_json, replacing, write_json
from grace.identifiers.base import read_tokenizer

FORMAT = "grace-flamingo-1"


def unique_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every parameter and persistent buffer once, under its first name."""
    kept = set(model.state_dict())
    found = {name: value for name, value in model.named_parameters() if name in kept}
    found |= {name: value for name, value in model.named_buffers() if name in kept}
    return found


def weights_digest(model: nn.Module) -> str:
    """sha256 (hex) of the weights of a frozen part that a model folder names and does not hold: names, shapes, fp32 values."""
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
    """Copy the tensors of a safetensors file into `model`, names and shapes strictly alike.

    Tensors of the file whose names start with one of `leave_out` are left out, no others are.
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
                            f"weights {path}: {name} has the shape {list(value.shape)}, the model's is {list(targets[name].shape)}"
                        )
                    targets[name].copy_(value)
    except (SafetensorError, OSError) as error:
        raise GraceError(f"weights {path} are not a readable safetensors file ({error}); make them again") from None


def save_model(folder: Path, tensors: dict[str, Tensor], config: dict[str, Any], tokenizer: Any) -> None:
    """Write a model folder: `tensors` by name, `config` (see `load_model`), tokenizer."""
    tokenizer.save_pretrained(folder)
    save_weights(folder / "model.safetensors", tensors)
    write_json(folder / "config.json", {"format": FORMAT, **config})


def load_model(folder: Path, device: torch.device | str = "cpu") -> tuple[Any, Any, dict[str, Any]]:
    """Read a model folder: the `GraceFlamingo` with its atomic head, if it has one, the tokenizer and the configuration."""
    from grace.model.atomic_head import AtomicHead
    from grace.model.flamingo import build

    config = read_config(folder)
    tokenizer = read_tokenizer(folder)
    settings = parse(FlamingoSettings, config["flamingo"], f"{folder}/config.json")
    model = build(
        settings, tokenizer, config["visual_width"], config["new_tokens"], pretrained=False,
        language_model_config=config.get("language_model"),
    )  # fmt: skip
    if config.get("classes"):
        width = model.lang_encoder.get_input_embeddings().embedding_dim
        model.atomic_head = AtomicHead(width, torch.zeros(config["classes"], config["class_width"]))
    load_weights(folder / "model.safetensors", model)
    return model.to(device).eval(), tokenizer, config


def read_config(folder: Path) -> dict[str, Any]:
    need(folder, "model folder")
    config = read_json(folder / "config.json", "model configuration")
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise GraceError(f"{folder}/config.json is not a model of this project (format {FORMAT}); train it again")
    lacking = [key for key in ("flamingo", "visual_width", "new_tokens", "scheme") if key not in config]
    if lacking:
        raise GraceError(f"{folder}/config.json lacks {', '.join(lacking)}; train the model again")
    return config


def _some(names: list[str]) -> str:
    return "none" if not names else ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
