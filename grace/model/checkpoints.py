"""Save and load model folders.

A model folder contains `model.safetensors` (every tensor once, since open_flamingo's blocks have several names),
`config.json` and the tokenizer. The inference build needs nothing else: no DeepSpeed, no hub.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from grace.identifiers.base import read_tokenizer
from grace.system.errors import GraceError
from grace.system.files import need, read_json, write_json
from grace.system.weights import load_weights, save_weights
from grace.workflow.config import Flamingo as FlamingoSettings
from grace.workflow.config import parse

FORMAT = "grace-flamingo-1"


def save_model(folder: Path, tensors: dict[str, Tensor], config: dict[str, Any], tokenizer: Any) -> None:
    """Write a model folder: `tensors` by name, `config` (see `load_model`), and the tokenizer."""
    tokenizer.save_pretrained(folder)
    save_weights(folder / "model.safetensors", tensors)
    write_json(folder / "config.json", {"format": FORMAT, **config})


def load_model(folder: Path, device: torch.device | str = "cpu") -> tuple[Any, Any, dict[str, Any]]:
    """Read a model folder: the `GraceFlamingo` (with its atomic head, if any), the tokenizer and the configuration."""
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
