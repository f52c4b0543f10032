"""Read published weights: safetensors, `pytorch_model.bin` and `checkpoint.pt`, in one file or in shards.

`torch.load` only accepts tensors (weights_only=True): nothing in a file is executed. Files are memory-mapped, so a model of
several gigabytes is in memory only once.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from grace.system.errors import GraceError
from grace.system.files import need, read_json

# The file names that transformers uses for weights, in order of preference.
WHOLE = ("model.safetensors", "pytorch_model.bin")
SHARDED = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors or torch file, by name.

    A torch file may have the names at the top level, or under `model_state_dict` as written by open_flamingo's trainer.
    Raises a `GraceError` for anything else, and for any class that is not a tensor.
    """
    need(path, "weights file")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise GraceError(f"weights {path} are not a readable safetensors file ({_first(error)})") from None
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise GraceError(
            f"weights {path} contain more than tensors and are not loaded ({_first(error)}); "
            "save only the tensors, as safetensors"
        ) from None
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise GraceError(f"weights {path} are not a readable torch file ({_first(error)}); download it again") from None
    if isinstance(found, dict) and isinstance(found.get("model_state_dict"), dict):
        found = found["model_state_dict"]
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise GraceError(f"weights {path} are not a dictionary of tensors by name; choose another file")
    return found


def read_model_tensors(name: str) -> dict[str, Tensor]:
    """Every tensor of a language model by hub name or local folder, from all shards."""
    for file in WHOLE:
        path = fetch(name, file)
        if path is not None:
            return read_tensors(path)
    for file in SHARDED:
        path = fetch(name, file)
        if path is None:
            continue
        place = read_json(path, "index of the weights").get("weight_map", {})
        tensors: dict[str, Tensor] = {}
        for shard in sorted(set(place.values())):
            part = fetch(name, shard)
            if part is None:
                raise GraceError(f"language model {name!r}: the shard {shard} is missing; fetch it again")
            tensors |= read_tensors(part)
        if set(tensors) != set(place):
            raise GraceError(f"language model {name!r}: its shards do not match {file}; fetch them again")
        return tensors
    raise GraceError(f"language model {name!r} has no weights ({', '.join(WHOLE + SHARDED)}); fetch them")


def fetch(name: str, file: str) -> Path | None:
    """The path of one file of a model by hub name or local folder; None if there is no such file."""
    from transformers.utils import cached_file

    if Path(name).is_dir():
        return Path(name) / file if (Path(name) / file).is_file() else None
    try:
        found = cached_file(
            name, file, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=True
        )
    except (OSError, ValueError) as error:
        raise GraceError(
            f"{file} of {name!r} cannot be fetched ({_first(error)}); use a local folder if no hub can be reached"
        ) from None
    return Path(found) if found else None


def _first(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
