"""Load published weights into our model by a strict key table: every tensor must be used, every parameter filled.

The table lists every name that a published file may use, with the parameter it stands for. Published names differ from ours
in three ways, all of them listed rather than guessed:

- builds: `lang_model` for `lang_encoder` and `vision_tokenizer` for `perceiver` (the second build of open_flamingo);
- MPT-1B: `ln_1`, `ln_2`, `mlp.mlp_up`, `mlp.mlp_down`, `ln_f` for `norm_1`, `norm_2`, `ffn.up_proj`, `ffn.down_proj`, `norm_f`;
- aliases: in open_flamingo a block is both `{layers}.N.decoder_layer` and `old_decoder_blocks.N`, and a cross-attention both
  `{layers}.N.gated_cross_attn_layer` and `gated_cross_attn_layers.N`; a tied head is the embedding.

docs/explanation/training.md says what is confirmed and what is inferred about the published files.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from grace.model.weight_files import read_tensors
from grace.system.errors import GraceError

# A segment of our names, and its other spellings in published files.
_HEADS = {"lang_encoder": ("lang_model",), "perceiver": ("vision_tokenizer",)}
_MOSAIC = {
    "norm_1": "ln_1",
    "norm_2": "ln_2",
    "ffn.up_proj": "mlp.mlp_up",
    "ffn.down_proj": "mlp.mlp_down",
    "transformer.norm_f": "transformer.ln_f",
}
TOWER = ("vision_encoder.",)  # the frozen tower has its own stage and is not loaded here


def key_table(model: nn.Module) -> dict[str, str]:
    """Map every published name to the first name of the parameter of `model` that it stands for."""
    table: dict[str, str] = {}
    first = {id(value): name for name, value in model.named_parameters()}
    for name, value in model.named_parameters(remove_duplicate=False):
        for spelling in _spellings(name):
            if table.setdefault(spelling, first[id(value)]) != first[id(value)]:
                raise AssertionError(f"the key table gives {spelling} two meanings")
    return table


def _spellings(name: str) -> list[str]:
    """All published spellings of one of our names, ours first."""
    names = [name]
    head, _, rest = name.partition(".")
    names += [f"{other}.{rest}" for other in _HEADS.get(head, ())]
    for ours, theirs in _MOSAIC.items():
        names += [_replace_segment(known, ours, theirs) for known in list(names) if f".{ours}." in f".{known}."]
    return names


def _replace_segment(name: str, ours: str, theirs: str) -> str:
    return f".{name}.".replace(f".{ours}.", f".{theirs}.").strip(".")


def place_tensors(tensors: dict[str, Tensor], model: nn.Module, needed: Iterable[str], where: str) -> set[str]:
    """Copy published `tensors` into `model`; return the names of the parameters that were filled.

    `needed`: the parameters that must be filled. Raises a `GraceError` for a name that is not in the table, a needed
    parameter without a tensor, a wrong shape, and two different tensors for one parameter.
    """
    table, targets = key_table(model), dict(model.named_parameters())
    given = {_unwrapped(name): value for name, value in tensors.items()}
    given = {name: value for name, value in given.items() if not name.startswith(TOWER)}
    found: dict[str, str] = {}
    for name, value in given.items():
        ours = table.get(name)
        if ours is None:
            continue
        if ours in found and not torch.equal(given[found[ours]], value):
            raise GraceError(f"weights {where}: {name} and {found[ours]} are the same parameter, but differ")
        found.setdefault(ours, name)
    unexpected = sorted(set(given) - set(table))
    missing = sorted(set(needed) - set(found))
    if missing or unexpected:
        raise GraceError(
            f"weights {where} do not fit the model: missing {_some(missing)}; unexpected {_some(unexpected)}"
        )
    for ours, name in found.items():
        if given[name].shape != targets[ours].shape:
            raise GraceError(
                f"weights {where}: {name} has the shape {list(given[name].shape)}, but the model needs {list(targets[ours].shape)}"
            )
    with torch.no_grad():
        for ours, name in found.items():
            targets[ours].copy_(given[name])
    return set(found)


def load_flamingo(path: Path, model: nn.Module, with_language_model: bool) -> None:
    """Load Flamingo weights into a `GraceFlamingo`: our own, or those published by OpenFlamingo and GRACE.

    A published `checkpoint.pt` contains what OpenFlamingo trained: perceiver, gated cross-attention and embeddings. It needs
    a pretrained language model (`with_language_model`); a file that includes the language model must include all of it.
    """
    added, own = parts(model)
    tensors = read_tensors(path)
    table = key_table(model)
    given = {table[name] for name in map(_unwrapped, tensors) if name in table}
    whole = bool(given & own)
    if not whole and not with_language_model:
        raise GraceError(
            f"weights {path} contain no language model, but flamingo.language_model is scratch; set it to pretrained"
        )
    place_tensors(tensors, model, added | own if whole else added, str(path))


def parts(model: nn.Module) -> tuple[set[str], set[str]]:
    """The names of the parameters that OpenFlamingo adds or trains (perceiver, cross-attention, embeddings), and the rest."""
    language = model.lang_encoder
    embeddings = {id(language.get_input_embeddings().weight), id(language.get_output_embeddings().weight)}
    names = dict(model.named_parameters())
    added = {
        name
        for name, value in names.items()
        if name.startswith("perceiver.") or ".gated_cross_attn_layer." in name or id(value) in embeddings
    }
    return added, set(names) - added


def _unwrapped(name: str) -> str:
    """The name without segments added by training wrappers (DeepSpeed and DDP, activation checkpointing)."""
    kept = [part for part in name.split(".") if part != "_checkpoint_wrapped_module"]
    return ".".join(kept[1:] if kept[0] == "module" else kept)


def _some(names: list[str]) -> str:
    return "none" if not names else ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
