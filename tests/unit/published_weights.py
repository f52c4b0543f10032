"""Small language models and checkpoints under the names of the published ones, and a plain reference for MPT."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from grace.identifiers.base import read_tokenizer
from grace.workflow.config import Flamingo, PretrainedLanguageModel

WIDTH, HEADS, LAYERS, ROWS = 32, 4, 2, 640
# As the configuration class of MosaicGPT (llm-foundry, April 2023) names its keys.
MOSAIC = {
    "model_type": "mosaic_gpt", "d_model": WIDTH, "n_heads": HEADS, "n_layers": LAYERS, "mlp_ratio": 4, "max_seq_len": 64,
    "vocab_size": ROWS, "attn_pdrop": 0, "resid_pdrop": 0, "emb_pdrop": 0, "attn_impl": "torch", "attn_qk_ln": True,
    "attn_clip_qkv": None, "softmax_scale": None, "prefix_lm": False, "attn_uses_sequence_id": False, "alibi": True,
    "alibi_bias_max": 8, "init_device": "cpu", "logit_scale": None, "no_bias": True, "verbose": 0,
    "embedding_fraction": 1.0, "norm_type": "low_precision_layernorm", "use_cache": False,
}  # fmt: skip
# The names of one block, as issue 210 of mlfoundations/open_flamingo prints them for OpenFlamingo-3B-vitl-mpt1b.
BLOCK = ("ln_1", "attn.Wqkv", "attn.q_ln", "attn.k_ln", "attn.out_proj", "ln_2", "mlp.mlp_up", "mlp.mlp_down")
CROSS = (
    "attn_gate", "ff_gate", "attn.norm.weight", "attn.norm.bias", "attn.to_q.weight", "attn.to_kv.weight",
    "attn.to_out.weight", "ff.0.weight", "ff.0.bias", "ff.1.weight", "ff.3.weight",
)  # fmt: skip
RESAMPLER = (
    "0.norm_media.weight", "0.norm_media.bias", "0.norm_latents.weight", "0.norm_latents.bias", "0.to_q.weight",
    "0.to_kv.weight", "0.to_out.weight", "1.0.weight", "1.0.bias", "1.1.weight", "1.3.weight",
)  # fmt: skip


def language_names(layers: int) -> list[str]:
    blocks = [f"transformer.blocks.{layer}.{name}.weight" for layer in range(layers) for name in BLOCK]
    return ["transformer.wte.weight", *blocks, "transformer.ln_f.weight"]


def checkpoint_names(layers: int, depth: int) -> list[str]:
    """Every name of a published checkpoint.pt."""
    crossed = [
        f"lang_encoder.transformer.blocks.{layer}.gated_cross_attn_layer.{name}"
        for layer in range(layers)
        for name in CROSS
    ]
    resampled = [f"perceiver.layers.{layer}.{name}" for layer in range(depth) for name in RESAMPLER]
    ends = ["perceiver.latents", "perceiver.norm.weight", "perceiver.norm.bias"]
    return ["lang_encoder.transformer.wte.weight", *crossed, *resampled, *ends]


def mosaic_weights(seed: int = 0) -> dict[str, Tensor]:
    """Random weights at MosaicGPT's names; scales of the norms far from 1, so that a norm left out is seen."""
    rng = torch.Generator().manual_seed(seed)
    shapes = {"Wqkv": (3 * WIDTH, WIDTH), "out_proj": (WIDTH, WIDTH), "mlp_up": (4 * WIDTH, WIDTH),
              "mlp_down": (WIDTH, 4 * WIDTH), "wte": (ROWS, WIDTH)}  # fmt: skip
    out = {}
    for name in language_names(LAYERS):
        shape = shapes.get(name.split(".")[-2], (WIDTH,))
        out[name] = torch.randn(shape, generator=rng) * (0.3 if len(shape) == 2 else 1.0) + (len(shape) == 1)
    return out


def reference_logits(weights: dict[str, Tensor], ids: list[int], qk_norm: bool = True) -> Tensor:
    """MosaicGPT's forward pass of one sequence in plain loops, logits f64 [L, V]; bias-free, ALiBi, tied head."""
    weights = {name: value.double() for name, value in weights.items()}
    x = weights["transformer.wte.weight"][ids]
    depth = WIDTH // HEADS
    for layer in range(LAYERS):
        block = {name: weights[f"transformer.blocks.{layer}.{name}.weight"] for name in BLOCK}
        q, k, v = (F.layer_norm(x, (WIDTH,), block["ln_1"]) @ block["attn.Wqkv"].T).split(WIDTH, dim=1)
        if qk_norm:
            q, k = F.layer_norm(q, (WIDTH,), block["attn.q_ln"]), F.layer_norm(k, (WIDTH,), block["attn.k_ln"])
        out = torch.zeros_like(x)
        for head in range(HEADS):
            cut = slice(head * depth, (head + 1) * depth)
            slope = 2 ** (-8 * (head + 1) / HEADS)
            for i in range(len(ids)):
                scores = torch.stack([
                    (q[i, cut] @ k[j, cut]) / math.sqrt(depth) - slope * (i - j) for j in range(i + 1)
                ])  # fmt: skip
                out[i, cut] = scores.softmax(0) @ v[: i + 1, cut]
        x = x + out @ block["attn.out_proj"].T
        up = F.gelu(F.layer_norm(x, (WIDTH,), block["ln_2"]) @ block["mlp.mlp_up"].T)
        x = x + up @ block["mlp.mlp_down"].T
    return F.layer_norm(x, (WIDTH,), weights["transformer.ln_f.weight"]) @ weights["transformer.wte.weight"].T


@pytest.fixture(scope="module")
def tokenizer(tokenizer_folder):
    return read_tokenizer(tokenizer_folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as the hub holds MPT-1B: config.json and pytorch_model.bin."""
    (tmp_path / "mpt").mkdir()
    (tmp_path / "mpt" / "config.json").write_text(json.dumps(MOSAIC))
    torch.save(mosaic_weights(), tmp_path / "mpt" / "pytorch_model.bin")
    return tmp_path / "mpt"


def settings(folder: Path, **other) -> Flamingo:
    values = {"cross_attention_every": 1, "perceiver_depth": 2, "perceiver_latents": 3, "gate": 0.0, **other}
    return Flamingo(language_model="pretrained", pretrained=PretrainedLanguageModel(model=str(folder)), **values)


def checkpoint(model, seed: int = 3) -> dict[str, Tensor]:
    """Random tensors at the names of a published checkpoint.pt, in the shapes of `model`."""
    rng, shapes = torch.Generator().manual_seed(seed), dict(model.named_parameters())
    return {name: torch.randn(shapes[name].shape, generator=rng) for name in checkpoint_names(LAYERS, 2)}
