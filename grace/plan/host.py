"""Main memory that each stage requests from a scheduler, computed from the configuration in milliseconds, without torch.

Every training process builds the whole model in fp32 in main memory before moving it to a GPU, under every ZeRO stage. On a
CPU, gradients and optimizer stay there too. Parameters are counted by formula: exactly for the perceiver and the
cross-attention, without biases and norms for the language model and the tower (tests compare them with real models).
"""

from __future__ import annotations

import json
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from grace.plan.published import LANGUAGE_MODELS
from grace.workflow.config import Config, Flamingo, Tower, Training

PROCESS = 3000  # MB of one process besides the model: Python, torch, the CUDA context, buffers
LEAST = 4000  # MB of any job with a network: its data, and activations on a CPU
TOWER = 500_000_000  # parameters assumed for a tower of unknown shape: somewhat more than ViT-L/14

Values = dict[str, Any]


def host_memory(config: Config) -> dict[str, int]:
    """{stage: MB} for the stages that load a network; `resources.memory_mb`, if set, applies to all of them."""
    stages = ("tower", "encode", "captioner", "pseudo_queries", "train", "retrieve", "baseline")
    if config.resources.memory_mb is not None:
        return dict.fromkeys(stages, config.resources.memory_mb)
    model, tower = flamingo_parameters(config), tower_parameters(config.tower) or TOWER
    one = {"tower": 2 * tower, "encode": 2 * tower, "baseline": 2 * tower, "pseudo_queries": model, "retrieve": model}
    if config.pseudo_queries.source == "nearest":
        one["pseudo_queries"] = 2 * tower
    found = {stage: _mb(PROCESS, 4 * count) for stage, count in one.items()}
    trainings = [config.train.for_scheme(scheme) for scheme in config.trained_schemes]
    found["train"] = max(_training(config, training, model) for training in trainings)
    found["captioner"] = _training(config, config.captioner, model)
    return found


def _training(config: Config, training: Training, model: int) -> int:
    """MB of one training job with all its processes. Weights files are memory-mapped, so the processes share them."""
    processes = config.resources.processes
    each = 4 * model
    if not config.resources.gpus:
        each += 12 * model  # gradients and both moments
    elif training.optimizer_offload == "cpu":
        each += 18 * model // processes  # fp32 weights, gradients and moments, and the weights being copied back
    if training.distillation:  # the tower is loaded, and freed, before the model is trained
        each = max(each, 4 * (model + (tower_parameters(config.tower) or TOWER)))
    return _mb(processes * PROCESS, processes * each + 4 * language_model_parameters(config.flamingo))


def _mb(base: int, size: int) -> int:
    return max(LEAST, base + -(-size // 10**6))


def flamingo_parameters(config: Config) -> int:
    """Parameters of the trained model: language model, gated cross-attention, perceiver."""
    flamingo, visual = config.flamingo, visual_width(config.tower)
    values = language_model_values(flamingo)
    width, layers = _width(values), _layers(flamingo, values)
    inner = flamingo.cross_attention_heads * flamingo.cross_attention_head_dim
    block = 4 * width + 2 * width * inner + 2 * visual * inner + 8 * width**2 + 2
    resampler = 6 * visual + 2048 * visual + 8 * visual**2  # open_flamingo's: 8 heads of 64
    perceiver = flamingo.perceiver_latents * visual + flamingo.perceiver_depth * resampler + 2 * visual
    cross_attention = layers // flamingo.cross_attention_every * block
    return language_model_parameters(flamingo) + cross_attention + perceiver


def language_model_parameters(flamingo: Flamingo) -> int:
    """Parameters of the language model, without biases and norms; 0 if its configuration is not on this machine."""
    values = language_model_values(flamingo)
    width, family = _width(values), values.get("model_type", "")
    heads = _first(values, "num_attention_heads", "n_heads", "n_head") or 1
    head = values.get("head_dim") or width // heads
    keys = (values.get("num_key_value_heads") or heads) * head
    wide = _first(values, "intermediate_size", "ffn_dim", "n_inner")
    wide = wide or width * (_first(values, "expansion_ratio", "mlp_ratio") or 4)
    gated = values.get("hidden_act") == "silu" or family in ("llama", "mistral", "gemma", "gemma2", "gemma3_text")
    layer = 2 * width * (heads * head + keys) + (3 if gated else 2) * width * wide
    tied = values.get("tie_word_embeddings", family not in ("gpt_neox", "gptj", "llama"))
    vocabulary = flamingo.pretrained.vocabulary if flamingo.language_model == "pretrained" else 0
    rows = (vocabulary or values.get("vocab_size", 0)) * (1 if tied else 2)
    places = values.get("max_position_embeddings", 0) if family == "opt" else 0
    return (rows + places) * width + _layers(flamingo, values) * layer


def language_model_values(flamingo: Flamingo) -> Values:
    """The language model's configuration: from scratch, of a published model, or from a folder or the local hub cache."""
    if flamingo.language_model == "scratch":
        made = flamingo.scratch
        wide = {"llama": 3, "opt": 4, "mpt": 4}[made.architecture] * made.width
        return {
            "model_type": made.architecture, "hidden_size": made.width, "num_hidden_layers": made.layers,
            "num_attention_heads": made.heads, "intermediate_size": wide, "vocab_size": made.vocabulary + 3,
            "max_position_embeddings": made.max_length, "tie_word_embeddings": True,
        }  # fmt: skip
    return LANGUAGE_MODELS.get(flamingo.pretrained.model) or _read(flamingo.pretrained.model)


@cache
def _read(name: str) -> Values:
    """The configuration of a pretrained language model by folder or hub name, without network access; {} if unknown."""
    path: Path | None = Path(name) / "config.json"
    if not path.is_file():
        path = None
        # with conda, Snakemake's own environment may lack the hub's package
        if name.count("/") == 1 and not name.startswith((".", "/")) and find_spec("huggingface_hub"):
            from huggingface_hub import try_to_load_from_cache

            cached = try_to_load_from_cache(name, "config.json")
            path = Path(cached) if isinstance(cached, str) else None
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path else {}
    except (OSError, ValueError):  # the stage that loads the model reports the error
        return {}
    return found if isinstance(found, dict) else {}


def is_known(config: Config) -> bool:
    """Whether the sizes of language model and tower are known; if not, `host_memory` omits the former, assumes the latter."""
    return language_model_parameters(config.flamingo) > 0 and tower_parameters(config.tower) > 0


def tower_parameters(tower: Tower) -> int:
    """Parameters of both sides of the tower, without biases and norms; 0 if open_clip does not list its shape."""
    if tower.kind != "open_clip":
        return 10_000_000  # give or take a few million
    values = _open_clip(tower.open_clip.model)
    vision, text = values.get("vision_cfg", {}), values.get("text_cfg", {})
    if not isinstance(vision.get("layers"), int):
        return 0
    image_side = 12 * vision["width"] ** 2 * vision["layers"]
    text_side = 12 * text.get("width", 512) ** 2 * text.get("layers", 12)
    return image_side + text_side + text.get("vocab_size", 49_408) * text.get("width", 512)


def visual_width(tower: Tower) -> int:
    """Width of a visual token."""
    if tower.kind == "scratch":
        return tower.scratch.width
    if tower.kind == "efficientnet_lite0":
        return tower.efficientnet_lite0.embedding_dim
    return _open_clip(tower.open_clip.model).get("vision_cfg", {}).get("width", 1024)


@cache
def _open_clip(name: str) -> Values:
    """open_clip's own configuration of a model, or the one in a file; {} for a model from a hub or a folder."""
    spec = find_spec("open_clip")
    folders = spec.submodule_search_locations if spec and spec.submodule_search_locations else []
    paths = [Path(name)] if name.endswith(".json") else [Path(at) / f"model_configs/{name}.json" for at in folders]
    for path in paths:
        if path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))
    return {}


def _width(values: Values) -> int:
    return _first(values, "hidden_size", "d_model", "n_embd") or 0


def _layers(flamingo: Flamingo, values: Values) -> int:
    layers = _first(values, "num_hidden_layers", "n_layers", "n_layer") or 0
    kept = flamingo.pretrained.layers if flamingo.language_model == "pretrained" else 0
    return min(kept, layers) if kept else layers


def _first(values: Values, *names: str) -> int | None:
    return next((values[name] for name in names if values.get(name)), None)
