"""MPT with QK LayerNorm, on top of transformers' MPT blocks, and its configuration from a published `config.json`.

MPT-1B (`mosaicml/mpt-1b-redpajama-200b`, and the copy that OpenFlamingo-3B is built on) normalises queries and keys over the
whole width before splitting the heads; transformers' MPT reads the switch `qk_ln` but ignores it. The published repository
has its own code, which is never executed here: the block is reimplemented with the names of transformers, so that a strict
key table (`grace.model.published`) can detect what is missing.

Legend: B sequences, L new tokens, K tokens with those in the cache, H width, N heads, D width of a head.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import MptConfig, MptForCausalLM
from transformers.models.mpt.modeling_mpt import MptAttention

from grace.system.errors import GraceError

MODEL_TYPES = ("mosaic_gpt", "mpt")

# Names in MosaicGPT's configuration (MPT-1B, April 2023) that differ from those in MPT's `attn_config`.
_ATTENTION_KEYS = {"qk_ln": "attn_qk_ln", "clip_qkv": "attn_clip_qkv"}
# Settings that transformers' MPT does not implement: the only value it handles correctly, and the default.
_ATTENTION_LIMITS: dict[str, tuple[Any, Any]] = {
    "alibi": (True, False),
    "alibi_bias_max": (8, 8),
    "prefix_lm": (False, False),
    "attn_uses_sequence_id": (False, False),
    "attn_pdrop": (0.0, 0.0),
}
_MODEL_LIMITS: dict[str, tuple[tuple[Any, ...], Any]] = {
    "no_bias": ((True,), False),
    "logit_scale": ((None,), None),
    "norm_type": (("layernorm", "low_precision_layernorm"), "low_precision_layernorm"),
    "embedding_fraction": ((1, 1.0), 1.0),
    "resid_pdrop": ((0, 0.0), 0.0),
    "emb_pdrop": ((0, 0.0), 0.0),
}


class QkNormAttention(MptAttention):
    """MPT's attention with LayerNorm over queries and keys (llm-foundry's `attn_qk_ln`): scale only, no bias.

    Parameters besides MptAttention's: `q_ln.weight`, `k_ln.weight`, f32 [H] each. Keys are cached normalised.
    """

    def __init__(self, config: MptConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.q_ln = nn.LayerNorm(self.hidden_size, eps=config.layer_norm_epsilon, bias=False)
        self.k_ln = nn.LayerNorm(self.hidden_size, eps=config.layer_norm_epsilon, bias=False)

    def forward(
        self,
        hidden_states: Tensor,
        position_bias: Tensor,
        past_key_values: Any = None,
        attention_mask: Tensor | None = None,
        cache_position: Tensor | None = None,
    ) -> tuple[Tensor, None]:
        """Attention output for the new tokens, [B, L, H]; ALiBi `position_bias` [N, 1, longest], `attention_mask` bool
        [B, 1, L, K], true for masked keys."""
        batch, length, _ = hidden_states.shape
        mixed = self.Wqkv(hidden_states)
        if self.clip_qkv:
            mixed = mixed.clamp(min=-self.clip_qkv, max=self.clip_qkv)
        query, key, value = mixed.chunk(3, dim=2)
        query_BNLD, key_BNKD, value_BNKD = (
            part.view(batch, length, self.n_heads, self.head_dim).transpose(1, 2)
            for part in (self.q_ln(query), self.k_ln(key), value)
        )
        if past_key_values is not None:
            key_BNKD, value_BNKD = past_key_values.update(
                key_BNKD, value_BNKD, self.layer_idx, {"cache_position": cache_position}
            )
        keys = key_BNKD.shape[2]
        bias_NK = position_bias[:, 0, -keys:]
        # Softmax is invariant to shifts: relative to the query's own key, the biases of near keys are small enough for bf16.
        bias_NLK = (bias_NK[:, None] - bias_NK[:, keys - length :, None]).to(query_BNLD.dtype)
        bias = bias_NLK[None]
        if attention_mask is not None:
            bias = bias.masked_fill(attention_mask, torch.finfo(bias.dtype).min)
        out = F.scaled_dot_product_attention(query_BNLD, key_BNKD, value_BNKD, attn_mask=bias, scale=self.softmax_scale)
        return self.out_proj(out.transpose(1, 2).reshape(batch, length, -1)), None


class QkNormMptForCausalLM(MptForCausalLM):
    """`MptForCausalLM` in which every attention is a `QkNormAttention`."""

    def __init__(self, config: MptConfig) -> None:
        super().__init__(config)
        for place, block in enumerate(self.transformer.blocks):
            block.attn = QkNormAttention(config, place)
            block.attn.apply(self._init_weights)


def make_mpt(config: MptConfig) -> MptForCausalLM:
    """An MPT with random weights, and with QK LayerNorm if `config.attn_config.qk_ln` is set."""
    return QkNormMptForCausalLM(config) if config.attn_config.qk_ln else MptForCausalLM(config)


def mpt_config(values: dict[str, Any], where: str) -> MptConfig:
    """transformers' configuration for a published `config.json` of type `mosaic_gpt` or `mpt`.

    `where` names the file in errors. Raises a `GraceError` for a setting that the native blocks would silently ignore (a
    bias, learned positions, a prefix mask, dropout, ...), and for a missing size.
    """
    # MosaicGPT's keys are flat. A later commit of MPT-1B's repository changes the type to `mpt` but keeps the keys.
    old = values.get("model_type") == "mosaic_gpt" or "attn_config" not in values
    given = values if old else values["attn_config"] or {}
    attention: dict[str, Any] = {}
    for key in ("qk_ln", "clip_qkv", "softmax_scale"):
        attention[key] = given.get(_ATTENTION_KEYS.get(key, key) if old else key)
    attention["qk_ln"] = bool(attention["qk_ln"])
    for key, (wanted, default) in _ATTENTION_LIMITS.items():
        _check(key, given.get(key, default), (wanted,), where)
        attention[key] = wanted
    if given.get("multiquery_attention") or given.get("attn_type", "multihead_attention") != "multihead_attention":
        raise GraceError(f"language model {where}: multi-query attention is not supported; choose another model")
    for key, (allowed, default) in _MODEL_LIMITS.items():
        _check(key, values.get(key, default), allowed, where)
    _check("mlp ratio", values.get("mlp_ratio" if old else "expansion_ratio", 4), (4,), where)
    sizes = {}
    for key in ("d_model", "n_heads", "n_layers", "max_seq_len", "vocab_size"):
        if not isinstance(values.get(key), int):
            raise GraceError(f"language model {where}: config.json lacks {key}; fetch it again")
        sizes[key] = values[key]
    tokens = {key: values[key] for key in ("bos_token_id", "eos_token_id", "pad_token_id") if key in values}
    return MptConfig(**sizes, **tokens, attn_config=attention, no_bias=True)


def _check(key: str, value: Any, allowed: tuple[Any, ...], where: str) -> None:
    if value not in allowed:
        raise GraceError(
            f"language model {where}: {key} is {value!r}, but only {' or '.join(map(repr, allowed))} is supported; "
            "choose another model"
        )
