"""The published models: MPT with QK LayerNorm against a plain reference, the key tables, and what a wrong file is told."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import DynamicCache

from grace.identifiers.base import read_tokenizer
from grace.model.checkpoints import load_model, save_model
from grace.model.flamingo import build
from grace.model.language_models import describe
from grace.model.mpt import mpt_config
from grace.model.published import key_table, load_flamingo, parts
from grace.system.errors import GraceError
from grace.system.weights import save_weights, unique_tensors
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


def test_a_published_checkpoint_fills_what_openflamingo_trains_and_nothing_else(folder, tokenizer, tmp_path) -> None:
    model = build(settings(folder), tokenizer, 16)
    added, own = parts(model)
    assert added == set(checkpoint_names(LAYERS, 2))
    before = {name: value.clone() for name, value in unique_tensors(model).items()}
    wanted = checkpoint(model)
    torch.save(wanted, tmp_path / "checkpoint.pt")
    load_flamingo(tmp_path / "checkpoint.pt", model, True)
    after = unique_tensors(model)
    assert all(torch.equal(after[name], wanted[name]) for name in added)
    assert all(torch.equal(after[name], before[name]) for name in own)


@pytest.mark.parametrize("wrap", ["plain", "trainer", "module", "second build", "aliases", "whole"])
def test_other_spellings_of_a_checkpoint_load_the_same(folder, tokenizer, tmp_path, wrap) -> None:
    model = build(settings(folder), tokenizer, 16)
    wanted = checkpoint(model)
    if wrap == "whole":  # what GRACE trains: the language model too, at MosaicGPT's names below `decoder_layer`
        for name, value in mosaic_weights(seed=8).items():
            name = name.replace("blocks.0.", "blocks.0.decoder_layer.").replace("blocks.1.", "blocks.1.decoder_layer.")
            wanted.setdefault(f"lang_encoder.{name}", value)
    written: dict = dict(wanted)
    if wrap in ("second build", "whole"):
        heads = {"lang_encoder": "lang_model", "perceiver": "vision_tokenizer"}
        written = {f"{heads[name.split('.', 1)[0]]}.{name.split('.', 1)[1]}": value for name, value in wanted.items()}
    elif wrap == "module":
        written = {f"module.{name}": value for name, value in wanted.items()}
        written["module.vision_encoder.conv1.weight"] = torch.zeros(2, 2)
    elif wrap == "trainer":
        written = {"model_state_dict": wanted, "epoch": 1}
    elif wrap == "aliases":
        prefix = "lang_encoder.transformer.blocks.1.gated_cross_attn_layer."
        for name in CROSS:
            written[f"lang_encoder.gated_cross_attn_layers.1.{name}"] = wanted[prefix + name].clone()
    torch.save(written, tmp_path / "checkpoint.pt")
    load_flamingo(tmp_path / "checkpoint.pt", model, True)
    table, ours = key_table(model), unique_tensors(model)
    assert all(torch.equal(ours[table[name]], value) for name, value in wanted.items())
    assert len({table[name] for name in wanted}) == len(wanted)
    if wrap == "whole":
        assert len(wanted) == len(ours)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.pop("perceiver.latents"), "missing perceiver.latents; unexpected none"),
        (lambda t: t.update(stranger=torch.zeros(1)), "missing none; unexpected stranger"),
        (lambda t: t.update({"perceiver.latents": torch.zeros(4, 16)}), "perceiver.latents has the shape [4, 16]"),
        (lambda t: t.update({"vision_tokenizer.latents": torch.zeros(3, 16)}), "are the same parameter, but differ"),
        (
            lambda t: t.update({"lang_encoder.transformer.blocks.0.decoder_layer.ln_1.weight": torch.ones(WIDTH)}),
            "missing lang_encoder.transformer.blocks.0.decoder_layer.attn.Wqkv.weight",
        ),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_told_and_nothing_is_loaded(
    folder, tokenizer, tmp_path, change, said
) -> None:
    model = build(settings(folder), tokenizer, 16)
    before = {name: value.clone() for name, value in unique_tensors(model).items()}
    tensors = checkpoint(model)
    change(tensors)
    torch.save(tensors, tmp_path / "checkpoint.pt")
    with pytest.raises(GraceError) as problem:
        load_flamingo(tmp_path / "checkpoint.pt", model, True)
    assert said in str(problem.value)
    assert all(torch.equal(value, before[name]) for name, value in unique_tensors(model).items())


def test_a_checkpoint_alone_is_no_model(folder, tokenizer, tmp_path) -> None:
    model = build(settings(folder), tokenizer, 16)
    torch.save(checkpoint(model), tmp_path / "checkpoint.pt")
    with pytest.raises(GraceError, match="contain no language model"):
        load_flamingo(tmp_path / "checkpoint.pt", model, False)


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("/tmp/grace-evil"),))


def test_no_code_of_a_file_is_executed(folder, tokenizer, tmp_path) -> None:
    model = build(settings(folder), tokenizer, 16)
    torch.save({**checkpoint(model), "more": Evil()}, tmp_path / "checkpoint.pt")
    with pytest.raises(GraceError, match="contain more than tensors"):
        load_flamingo(tmp_path / "checkpoint.pt", model, True)
    (tmp_path / "cut.pt").write_bytes((tmp_path / "checkpoint.pt").read_bytes()[:2000])
    with pytest.raises(GraceError, match="not a readable torch file"):
        load_flamingo(tmp_path / "cut.pt", model, True)


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


def test_gpt_neox_loads_and_its_checkpoint_has_both_embeddings(tokenizer, tmp_path) -> None:
    """OpenFlamingo-4B stands on RedPajama-INCITE-3B, a GPT-NeoX with a head of its own, cross-attention every 2 layers."""
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig(vocab_size=ROWS, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=4,
                           intermediate_size=64, max_position_embeddings=64)  # fmt: skip
    GPTNeoXForCausalLM(config).save_pretrained(tmp_path)
    model = build(settings(tmp_path, cross_attention_every=2, perceiver_depth=1), tokenizer, 16)
    added, own = parts(model)
    assert {"lang_encoder.gpt_neox.embed_in.weight", "lang_encoder.embed_out.weight"} <= added
    crossed = {name for name in added if ".gated_cross_attn_layer." in name}
    assert crossed == {f"lang_encoder.gpt_neox.layers.1.gated_cross_attn_layer.{name}" for name in CROSS}
    assert all(".decoder_layer." in name or "final_layer_norm" in name for name in own)
    tensors = {name: torch.randn_like(unique_tensors(model)[name]) for name in added}
    save_weights(tmp_path / "checkpoint.safetensors", tensors)
    load_flamingo(tmp_path / "checkpoint.safetensors", model, True)
    assert all(torch.equal(unique_tensors(model)[name], value) for name, value in tensors.items())


class Words:
    """The tokenizer of GPT-NeoX with the three added tokens, as far as `build` asks."""

    def __len__(self) -> int:
        return 50_280

    def convert_tokens_to_ids(self, token: str) -> int:
        return {"<|endofchunk|>": 50_277, "<image>": 50_278}[token]


@pytest.mark.parametrize(("qk_norm", "more"), [(False, 0), (True, 98_304)])
def test_openflamingo_3b_at_its_true_shapes(tmp_path, qk_norm, more) -> None:
    values = {**MOSAIC, "d_model": 2048, "n_heads": 16, "n_layers": 24, "max_seq_len": 2048, "vocab_size": 50_432}
    (tmp_path / "config.json").write_text(json.dumps({**values, "attn_qk_ln": qk_norm}))
    with torch.device("meta"):
        published = settings(tmp_path, perceiver_depth=6, perceiver_latents=64, cross_attention_heads=8,
                             cross_attention_head_dim=64)  # fmt: skip
        model = build(published, Words(), visual_width=1024, pretrained=False)
    count = {name: value.numel() for name, value in unique_tensors(model).items()}
    assert sum(n for name, n in count.items() if name.startswith("perceiver.")) == 63_019_008
    assert sum(n for name, n in count.items() if ".gated_cross_attn_layer." in name) == 881_000_496
    assert sum(count.values()) == 2_255_052_848 + more
    table = key_table(model)
    added, own = parts(model)
    names = checkpoint_names(24, 6)
    assert {table[name] for name in names} == added and len(names) == len(added)
    language = [
        name.replace("transformer.blocks.", "lang_encoder.transformer.blocks.", 1)
        for name in language_names(24)
        if qk_norm or ("q_ln" not in name and "k_ln" not in name)
    ]
    language = [f"lang_encoder.{name}" if not name.startswith("lang_encoder.") else name for name in language]
    language = [re.sub(r"(blocks\.\d+\.)", r"\1decoder_layer.", name) for name in language]
    assert {table[name] for name in language} - added == own


def test_the_tower_of_openflamingo_counts_303_966_208() -> None:
    """CLIP ViT-L/14: with it the published model has 2,559,019,056 parameters, and 98,304 of QK LayerNorm."""
    from grace.system.torchvision_shim import import_torchvision

    import_torchvision()
    import open_clip

    with torch.device("meta"):
        tower = open_clip.create_model("ViT-L-14", pretrained=None, device="meta").visual
    assert sum(value.numel() for value in tower.parameters()) == 303_966_208 == 2_559_019_056 - 2_255_052_848


def test_a_model_folder_loads_where_the_language_models_own_folder_is_gone(folder, tokenizer, tmp_path) -> None:
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    config = GPTNeoXConfig(vocab_size=ROWS, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=4,
                           intermediate_size=64, max_position_embeddings=64)  # fmt: skip
    GPTNeoXForCausalLM(config).save_pretrained(tmp_path / "neox")
    for source in (folder, tmp_path / "neox"):
        model = build(settings(source), tokenizer, 16).eval()
        out = tmp_path / f"model-{source.name}"
        out.mkdir()
        said = {"flamingo": settings(source).model_dump(), "visual_width": 16, "new_tokens": 0, "scheme": "numeric"}
        save_model(out, unique_tensors(model), {**said, "language_model": describe(model.lang_encoder)}, tokenizer)
        shutil.rmtree(source)
        again, _, _ = load_model(out)
        ids, media = torch.tensor([[5, 6, 7]]), torch.randn(1, 1, 3, 16)
        assert torch.equal(again.hidden_states(ids, media)[0], model.hidden_states(ids, media)[0])


def test_visual_tokens_are_those_before_the_final_norm(tmp_path) -> None:
    """open_clip 2.16 to 2.20, with which OpenFlamingo was trained, pooled first and normalised the pooled vector alone."""
    from PIL import Image

    from grace.towers.openclip import OpenClipTower
    from grace.workflow.config import OpenClip

    config = {"embed_dim": 8, "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
              "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}}  # fmt: skip
    (tmp_path / "small-vit.json").write_text(json.dumps(config))
    tower = OpenClipTower(OpenClip(model=str(tmp_path / "small-vit.json"), pretrained=""))
    visual = tower.model.visual
    torch.nn.init.normal_(visual.ln_post.weight)
    last: list[Tensor] = []
    visual.transformer.register_forward_hook(lambda module, inputs, out: last.append(out.clone()))
    image = Image.effect_noise((32, 32), 60).convert("RGB")
    pooled, tokens = tower.encode_images([image])
    assert torch.allclose(tokens, last[0][:, 1:], atol=1e-6)
    with torch.no_grad():
        last[0] = last[0].clone()
        wanted = F.normalize(visual.ln_post(last[0][:, 0]) @ visual.proj, dim=-1)
        assert torch.allclose(pooled, wanted, atol=1e-6)
        assert not torch.allclose(tokens, visual.ln_post(last[0][:, 1:]), atol=1e-2)
