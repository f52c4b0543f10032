"""The language model inside a Flamingo: built from scratch, or pretrained by hub name, local folder or GGUF file.

Pretrained weights are loaded completely or not at all: a missing, unexpected or misshapen tensor is an error. MPT has its
own loader (QK LayerNorm, published names); the other families go through transformers. Code from a model's repository is
never executed.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import nn

from grace.model.gguf import gguf_file, read_config, read_tensors
from grace.model.vocabulary import cut_embeddings, fetch_tokenizer
from grace.model.weight_files import fetch, read_model_tensors
from grace.system.errors import GraceError
from grace.system.files import read_json
from grace.workflow.config import Flamingo as FlamingoSettings
from grace.workflow.config import ScratchLanguageModel


def language_model(
    settings: FlamingoSettings, tokenizer: Any, pretrained: bool, config: dict[str, Any] | None = None
) -> nn.Module:
    """The language model of `settings` with its own vocabulary.

    With `pretrained` False only its architecture is built; `config` is then its configuration as returned by `describe`, so
    that neither a hub nor the original folder is needed.
    """
    from transformers import AutoModelForCausalLM

    if settings.language_model == "scratch":
        # transformers' MPT adds the ALiBi bias to the scores itself and supports no other implementation.
        attention = "eager" if settings.scratch.architecture == "mpt" else "sdpa"
        return AutoModelForCausalLM.from_config(
            scratch_config(settings.scratch, tokenizer), attn_implementation=attention
        )
    name = settings.pretrained.model
    if config is None:
        config = read_configuration(name)
    from grace.model.mpt import MODEL_TYPES

    if config.get("model_type") in MODEL_TYPES:
        model = _mpt(name, config, pretrained)
    elif pretrained and gguf_file(name) is not None:
        model = _by_gguf(name, config)
    else:
        model = _by_transformers(name, config, pretrained)
    if settings.pretrained.vocabulary and pretrained:
        cut_embeddings(model, fetch_tokenizer(settings.pretrained.tokenizer or name), tokenizer)
    return model


def read_configuration(name: str) -> dict[str, Any]:
    """The configuration of a language model by hub name, local folder or GGUF file, as plain values."""
    gguf = gguf_file(name)
    if gguf is not None:
        return read_config(gguf)
    path = fetch(name, "config.json")
    if path is None:
        raise GraceError(f"language model {name!r} has no config.json; give the name or folder of a model")
    return read_json(path, "configuration of the language model")


def local_files(settings: FlamingoSettings) -> list[Path]:
    """The files of a pretrained language model that is a folder or file on this machine, which training reads.

    Empty for a hub name, since a cached snapshot of a revision does not change.
    """
    if settings.language_model != "pretrained" or not Path(settings.pretrained.model).exists():
        return []
    place = Path(settings.pretrained.model)
    return sorted(path for path in place.iterdir() if path.is_file()) if place.is_dir() else [place]


def describe(model: nn.Module) -> dict[str, Any]:
    """The configuration of a language model as plain values, for `language_model`."""
    return {key: value for key, value in model.config.to_dict().items() if not key.startswith("_")}


def _mpt(name: str, values: dict[str, Any], pretrained: bool) -> nn.Module:
    from transformers.modeling_utils import no_init_weights

    from grace.model.mpt import make_mpt, mpt_config
    from grace.model.published import place_tensors

    config = mpt_config(values, repr(name))
    if not pretrained:
        return make_mpt(config)
    with no_init_weights():  # every parameter is loaded below; a missing one is an error
        model = make_mpt(config)
    model.tie_weights()
    place_tensors(read_model_tensors(name), model, dict(model.named_parameters()), repr(name))
    return model


def _by_gguf(name: str, values: dict[str, Any]) -> nn.Module:
    from grace.model.published import place_tensors

    model = _by_transformers(name, values, pretrained=False)
    place_tensors(read_tensors(gguf_file(name), model), model, dict(model.named_parameters()), repr(name))
    return model


def _by_transformers(name: str, values: dict[str, Any], pretrained: bool) -> nn.Module:
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        if not pretrained:
            kind = values.get("model_type", "")
            return AutoModelForCausalLM.from_config(
                AutoConfig.for_model(**{**values, "model_type": kind}), torch_dtype=torch.float32
            )
        model, told = AutoModelForCausalLM.from_pretrained(
            name, trust_remote_code=False, torch_dtype=torch.float32, output_loading_info=True
        )
    except (OSError, ValueError) as error:
        if _is_of_a_pickle(error):
            raise GraceError(
                f"language model {name!r}: its weights contain more than tensors and are not loaded; use safetensors files"
            ) from None
        raise GraceError(
            f"language model {name!r} cannot be loaded ({str(error).strip().splitlines()[0]}); "
            "set flamingo.pretrained.model to a local folder if no hub can be reached"
        ) from None
    wrong = {kind: sorted(map(str, told[kind])) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    # Older GPT-NeoX and GPT-J files contain masks and frequencies, which are now computed.
    wrong["unexpected_keys"] = [key for key in wrong["unexpected_keys"] if not key.endswith(_COMPUTED)]
    if any(wrong.values()):
        said = "; ".join(f"{kind.removesuffix('_keys')} {keys[:3]}" for kind, keys in wrong.items() if keys)
        raise GraceError(f"language model {name!r}: its weights do not fit its configuration: {said}")
    return model


def _is_of_a_pickle(error: BaseException | None) -> bool:
    """Whether torch refused a class in a weights file, which transformers reports as another error."""
    return error is not None and (isinstance(error, pickle.UnpicklingError) or _is_of_a_pickle(error.__context__))


_COMPUTED = ("attention.bias", "attention.masked_bias", "attn.bias", "attn.masked_bias", "rotary_emb.inv_freq")


def scratch_config(settings: ScratchLanguageModel, tokenizer: Any) -> Any:
    """The transformers configuration of a language model built from scratch."""
    from transformers import LlamaConfig, MptConfig, OPTConfig

    tokens = {
        "vocab_size": len(tokenizer),
        "bos_token_id": None,
        "eos_token_id": tokenizer.convert_tokens_to_ids("<|endofchunk|>"),
        "pad_token_id": tokenizer.pad_token_id,
    }
    if settings.architecture == "mpt":
        return MptConfig(
            **tokens,
            d_model=settings.width,
            n_layers=settings.layers,
            n_heads=settings.heads,
            max_seq_len=settings.max_length,
        )
    shared = {
        **tokens,
        "hidden_size": settings.width,
        "num_hidden_layers": settings.layers,
        "num_attention_heads": settings.heads,
        "max_position_embeddings": settings.max_length,
    }
    if settings.architecture == "llama":
        return LlamaConfig(**shared, intermediate_size=settings.width * 3, tie_word_embeddings=True)
    return OPTConfig(
        **shared, ffn_dim=settings.width * 4, word_embed_proj_dim=settings.width, dropout=0.0, attention_dropout=0.0
    )
