"""Configurations of the published OpenFlamingo's language models, by hub name, so that no hub is needed."""

from __future__ import annotations

from typing import Any

# GPT-NeoX's tokenizer has 50,277 entries; <|endofchunk|>, <image> and <PAD> are added.
NEOX_WORDS = 50_280
_MPT = {"alibi": True, "alibi_bias_max": 8, "clip_qkv": None, "softmax_scale": None, "prefix_lm": False}
LANGUAGE_MODELS: dict[str, dict[str, Any]] = {
    "anas-awadalla/mpt-1b-redpajama-200b": {
        "model_type": "mosaic_gpt", "d_model": 2048, "n_heads": 16, "n_layers": 24, "mlp_ratio": 4,
        "max_seq_len": 2048, "vocab_size": 50_432, "attn_qk_ln": True, "no_bias": True, "alibi": True,
    },
    "anas-awadalla/mpt-7b": {
        "model_type": "mpt", "d_model": 4096, "n_heads": 32, "n_layers": 32, "expansion_ratio": 4,
        "max_seq_len": 2048, "vocab_size": 50_432, "no_bias": True, "attn_config": {**_MPT, "qk_ln": False},
    },
    "togethercomputer/RedPajama-INCITE-Base-3B-v1": {
        "model_type": "gpt_neox", "hidden_size": 2560, "num_attention_heads": 32, "num_hidden_layers": 32,
        "intermediate_size": 10_240, "max_position_embeddings": 2048, "vocab_size": 50_432, "rotary_pct": 1.0,
        "use_parallel_residual": False,
    },
}  # fmt: skip
