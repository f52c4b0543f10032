"""Published checkpoints into our model: every name finds its place, whatever does not fit is refused."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from grace.model.checkpoints import load_model, save_model
from grace.model.flamingo import build
from grace.model.language_models import describe
from grace.model.published import key_table, load_flamingo, parts
from grace.system.errors import GraceError
from grace.system.weights import save_weights, unique_tensors
from tests.unit import published_weights
from tests.unit.published_weights import (
    CROSS,
    LAYERS,
    MOSAIC,
    ROWS,
    WIDTH,
    checkpoint,
    checkpoint_names,
    language_names,
    mosaic_weights,
    settings,
)

tokenizer = published_weights.tokenizer
folder = published_weights.folder


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
