"""MPT with QK LayerNorm against a plain reference, its configurations, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch
from torch.nn import functional as F
from transformers import DynamicCache

from grace.model.flamingo import build
from grace.model.mpt import mpt_config
from grace.system.errors import GraceError
from tests.unit import published_weights
from tests.unit.published_weights import HEADS, LAYERS, MOSAIC, ROWS, WIDTH, mosaic_weights, reference_logits, settings

tokenizer = published_weights.tokenizer
folder = published_weights.folder


@torch.no_grad()
def test_mpt_with_qk_layernorm_equals_a_plain_reference(folder, tokenizer) -> None:
    model = build(settings(folder), tokenizer, 16).eval()
    ids = [5, 7, 300, 9, 11, 5, 12]
    media = torch.randn(1, 1, 3, 16)
    logits = model.head(model.hidden_states(torch.tensor([ids]), media)[0])[0]
    wanted = reference_logits(mosaic_weights(), ids)[:, : len(tokenizer)]
    assert torch.allclose(logits.double(), wanted, atol=1e-4)  # logits of some 10 nats, gates closed: the bare MPT
    blind = reference_logits(mosaic_weights(), ids, qk_norm=False)[:, : len(tokenizer)]
    assert not torch.allclose(blind, wanted, atol=1e-1), "the reference without QK LayerNorm is no other model"


@torch.no_grad()
def test_qk_layernorm_with_a_cache_padding_and_bf16(folder, tokenizer) -> None:
    model = build(settings(folder, gate=0.5), tokenizer, 16).eval()
    ids = torch.randint(3, 200, (3, 9), generator=torch.Generator().manual_seed(0))
    ids[:, 3] = tokenizer.convert_tokens_to_ids("<image>")
    media = torch.randn(3, 1, 3, 16)
    whole, _ = model.hidden_states(ids, media)
    _, cache = model.hidden_states(ids[:, :5], media, past_key_values=DynamicCache())
    order = [2, 0, 0, 1]
    cache.reorder_cache(torch.tensor(order))
    parts_ = [model.hidden_states(ids[order, i : i + 1], media[order], past_key_values=cache)[0] for i in range(5, 9)]
    assert torch.allclose(torch.cat(parts_, 1), whole[order, 5:], atol=1e-4)
    mask = torch.ones(3, 12, dtype=torch.long)
    mask[:, 9:] = 0
    padded, _ = model.hidden_states(F.pad(ids, (0, 3), value=tokenizer.pad_token_id), media, mask)
    assert torch.allclose(padded[:, :9], whole, atol=1e-4)
    rough, _ = model.bfloat16().hidden_states(ids, media.bfloat16())
    assert F.cosine_similarity(rough.float(), whole, dim=-1).min() > 0.995


@pytest.mark.parametrize("name", ["transformer.blocks.1.attn.k_ln.weight", "transformer.wte.weight"])
def test_a_language_model_without_one_tensor_is_an_error(folder, tokenizer, name) -> None:
    torch.save({key: value for key, value in mosaic_weights().items() if key != name}, folder / "pytorch_model.bin")
    ours = name.replace("ln_1", "norm_1")
    with pytest.raises(GraceError, match=f"missing {ours}; unexpected none"):
        build(settings(folder), tokenizer, 16)


def test_qk_layernorm_weights_under_a_configuration_without_it_are_an_error(folder, tokenizer) -> None:
    (folder / "config.json").write_text(json.dumps({**MOSAIC, "attn_qk_ln": False}))
    with pytest.raises(GraceError, match=r"unexpected transformer.blocks.0.attn.k_ln.weight"):
        build(settings(folder), tokenizer, 16)


@pytest.mark.parametrize(
    "change",
    [{"alibi": False}, {"no_bias": False}, {"prefix_lm": True}, {"logit_scale": "inv_sqrt_d_model"}, {"mlp_ratio": 3},
     {"alibi_bias_max": 16}, {"multiquery_attention": True}, {"norm_type": "rmsnorm"}, {"d_model": None}],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_what_the_blocks_would_compute_otherwise_is_refused(change) -> None:
    with pytest.raises(GraceError, match=r"^language model here: "):
        mpt_config({**MOSAIC, **change}, "here")


@pytest.mark.parametrize("kind", ["mosaic_gpt", "mpt"])
def test_the_published_configuration_of_mpt_1b_has_qk_layernorm(kind) -> None:
    """The keys of its config.json that say what is computed; a later commit changes the type and leaves them flat."""
    values = {
        "model_type": kind, "alibi": True, "alibi_bias_max": 8, "attn_clip_qkv": None, "attn_impl": "torch", "attn_pdrop": 0,
        "attn_qk_ln": True, "attn_uses_sequence_id": False, "d_model": 2048, "emb_pdrop": 0, "embedding_fraction": 1.0,
        "logit_scale": None, "low_precision_layernorm": True, "max_seq_len": 2048, "mlp_ratio": 4, "n_heads": 16,
        "n_layers": 24, "no_bias": True, "prefix_lm": False, "resid_pdrop": 0, "softmax_scale": None, "vocab_size": 50_432,
    }  # fmt: skip
    found = mpt_config(values, "here")
    assert found.attn_config.qk_ln and found.attn_config.alibi and found.attn_config.softmax_scale is None
    assert (found.d_model, found.n_heads, found.n_layers, found.vocab_size) == (2048, 16, 24, 50_432)
    with pytest.raises(GraceError, match="alibi is False"):
        mpt_config({"model_type": kind, **{key: value for key, value in values.items() if key != "alibi"}}, "here")


def test_mpt_7b_in_shards_without_qk_layernorm(tokenizer, tmp_path) -> None:
    """OpenFlamingo-9B stands on MPT-7B: the same loader, the names of transformers, weights in shards."""
    attention = {
        "alibi": True,
        "alibi_bias_max": 8,
        "qk_ln": False,
        "clip_qkv": None,
        "attn_type": "multihead_attention",
    }
    values = {"model_type": "mpt", "d_model": WIDTH, "n_heads": HEADS, "n_layers": LAYERS, "expansion_ratio": 4,
              "max_seq_len": 64, "vocab_size": ROWS, "no_bias": True, "attn_config": attention}  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(values))
    spelling = {
        "ln_1": "norm_1",
        "ln_2": "norm_2",
        "ln_f": "norm_f",
        "mlp_up": "up_proj",
        "mlp_down": "down_proj",
        "mlp": "ffn",
    }
    plain = {name: value for name, value in mosaic_weights().items() if "q_ln" not in name and "k_ln" not in name}
    named = {".".join(spelling.get(part, part) for part in name.split(".")): value for name, value in plain.items()}
    shards = [dict(list(named.items())[:5]), dict(list(named.items())[5:])]
    for place, shard in enumerate(shards):
        torch.save(shard, tmp_path / f"part{place}.bin")
    where = {name: f"part{place}.bin" for place, shard in enumerate(shards) for name in shard}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": where}))
    model = build(settings(tmp_path, cross_attention_every=2), tokenizer, 16).eval()
    ids = [5, 7, 300, 9, 11]
    logits = model.head(model.hidden_states(torch.tensor([ids]), torch.zeros(1, 1, 3, 16))[0])[0]
    wanted = reference_logits(mosaic_weights(), ids, qk_norm=False)[:, : len(tokenizer)]
    assert torch.allclose(logits.double(), wanted, atol=1e-4)
    (tmp_path / "part1.bin").unlink()
    with pytest.raises(GraceError, match=r"shard part1\.bin is missing"):
        build(settings(tmp_path), tokenizer, 16)
