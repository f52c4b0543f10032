"""The tower kind open_clip: weights meet the network that they were trained in, or are refused."""

from __future__ import annotations

import json
import logging
import warnings
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from grace.system.errors import GraceError
from grace.system.torchvision_shim import import_torchvision
from grace.towers import open_tower, tower
from grace.towers.openclip import OpenClipTower
from grace.workflow.config import Config, OpenClip, Tower, load

import_torchvision()

import open_clip  # noqa: E402
from open_clip import factory, pretrained  # noqa: E402
from open_clip.model import CLIP  # noqa: E402
from open_clip.transformer import QuickGELU  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
PRESETS = ("flickr30k", "flickr8k", "coco", "openflamingo_4b", "openflamingo_9b")
SMALL = {
    "embed_dim": 8, "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}  # fmt: skip


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    """open_clip's registries as they are, put back after the test; ViT-L-14 under its true name and tags, but small."""
    for module, name in ((factory, "_MODEL_CONFIGS"), (pretrained, "_PRETRAINED")):
        monkeypatch.setattr(module, name, deepcopy(getattr(module, name)))
    monkeypatch.setattr(factory, "_MODEL_CONFIG_PATHS", list(factory._MODEL_CONFIG_PATHS))
    for name, more in (("ViT-L-14", {}), ("ViT-L-14-quickgelu", {"quick_gelu": True})):
        factory._MODEL_CONFIGS[name] = {**deepcopy(SMALL), **more}


def network(quick: bool, sizes: dict = SMALL) -> CLIP:
    """The network itself, weights large enough for the activations to differ."""
    torch.manual_seed(0)
    model = CLIP(**deepcopy(sizes), quick_gelu=quick).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "c_fc.weight" in name or "c_proj.weight" in name:
                value.mul_(6)
    return model


@pytest.fixture
def weights(tmp_path) -> Path:
    path = tmp_path / "weights.pt"
    torch.save(network(True).state_dict(), path)
    return path


@pytest.fixture
def download(weights, monkeypatch) -> list[dict]:
    """A stand-in for the download of any tag; what it was asked for."""
    asked: list[dict] = []
    monkeypatch.setattr(factory, "download_pretrained", lambda cfg, **_: asked.append(cfg) or str(weights))
    return asked


def activations(model: nn.Module) -> set[type]:
    """The kinds of the activations of both towers."""
    return {
        type(block.mlp.gelu)
        for transformer in (model.visual.transformer, model.transformer)
        for block in transformer.resblocks
    }


def same_outputs(tower: OpenClipTower, wanted: CLIP) -> bool:
    """Whether embeddings of an image and of a text, and visual tokens, are those of the network `wanted`."""
    image, text = Image.effect_noise((32, 32), 60).convert("RGB"), "two dogs run"
    pooled, tokens = tower.encode_images([image])
    last = []
    wanted.visual.transformer.register_forward_hook(lambda module, inputs, out: last.append(out))
    with torch.no_grad():
        images = F.normalize(wanted.encode_image(tower.transform(image)[None]), dim=-1)
        texts = F.normalize(wanted.encode_text(tower.tokenize([text])), dim=-1)
    found = (pooled, images), (tokens, last[0][:, 1:]), (tower.encode_text([text]), texts)
    near = {torch.allclose(a, b, atol=1e-5) for a, b in found}
    assert len(near) == 1, "one side of the tower has the right activation, the other has not"
    return near.pop()


@pytest.mark.parametrize("preset", PRESETS)
def test_the_tower_of_every_preset_has_the_activation_of_its_weights(preset, download, tmp_path) -> None:
    files = [ROOT / "config/flickr30k.yaml"] if preset.startswith("openflamingo") else []
    settings = load(*files, ROOT / f"config/{preset}.yaml").tower
    settings = settings.model_copy(update={"open_clip": settings.open_clip.model_copy(update={"precision": "fp32"})})
    assert (settings.kind, settings.open_clip.model, settings.open_clip.pretrained) == (
        "open_clip",
        "ViT-L-14",
        "openai",
    )
    tower(dataset=tmp_path, output=tmp_path / "tower", settings=settings)
    opened = open_tower(tmp_path / "tower")
    assert download[-1]["quick_gelu"] and download[-1]["hf_hub"] == "timm/vit_large_patch14_clip_224.openai/"
    assert activations(opened.model) == {QuickGELU} and opened.activation == "QuickGELU"
    assert same_outputs(opened, network(True)) and not same_outputs(opened, network(False))


def test_a_tag_that_wants_gelu_gets_it(download) -> None:
    opened = OpenClipTower(OpenClip(model="ViT-L-14", pretrained="laion2b_s32b_b82k"))
    assert activations(opened.model) == {nn.GELU} and opened.activation == "GELU"
    assert same_outputs(opened, network(False))


def test_every_published_tag_gets_the_activation_it_was_trained_with(download, monkeypatch) -> None:
    """Every pair of a model and a tag of open_clip that this kind of tower may load, on networks without weights."""
    small = set()
    for name, config in factory._MODEL_CONFIGS.items():
        vision = config["vision_cfg"]
        plain = "timm_model_name" not in vision and not isinstance(vision.get("layers"), list)
        if plain and "hf_model_name" not in config["text_cfg"] and "multimodal_cfg" not in config:
            small.add(name)
            few = {"layers": 1, "width": 64, "head_width": 32, "patch_size": 16, "image_size": 32}
            factory._MODEL_CONFIGS[name] = {
                **config, "vision_cfg": {**vision, **few}, "text_cfg": {**config["text_cfg"], **SMALL["text_cfg"]}
            }  # fmt: skip
    monkeypatch.setattr(factory, "load_checkpoint", lambda *_, **__: None)
    monkeypatch.setattr(open_clip, "get_tokenizer", lambda name: None)  # some are files of a hub
    pairs = [(name, tag) for name, tag in open_clip.list_pretrained() if name in small]
    quick = 0
    for name, tag in pairs:
        model = OpenClipTower(OpenClip(model=name, pretrained=tag)).model
        wants = bool(pretrained.get_pretrained_cfg(name, tag).get("quick_gelu", False))
        found = {type(module) for module in model.modules() if isinstance(module, QuickGELU | nn.GELU)}
        assert found == {QuickGELU if wants else nn.GELU}, (name, tag)
        quick += wants
    assert quick > 20 and len(pairs) - quick > 20


def test_a_configuration_that_contradicts_the_tag_is_refused(download, tmp_path) -> None:
    """A JSON file under the name of a published model: open_clip takes its tags for it, and only warns."""
    (tmp_path / "ViT-L-14.json").write_text(json.dumps({**SMALL, "quick_gelu": True}))
    with pytest.raises(GraceError, match=r"QuickGELU mismatch.*tower\.open_clip\.model"):
        OpenClipTower(OpenClip(model=str(tmp_path / "ViT-L-14.json"), pretrained="laion2b_s32b_b82k"))


def test_a_file_of_weights_has_the_activation_that_the_configuration_states(weights, tmp_path) -> None:
    with pytest.raises(GraceError, match=r"the activation of .* is unknown.*ViT-L-14-quickgelu.*local-dir:"):
        OpenClipTower(OpenClip(model="ViT-L-14", pretrained=str(weights)))
    assert same_outputs(OpenClipTower(OpenClip(model="ViT-L-14-quickgelu", pretrained=str(weights))), network(True))
    for quick in (True, False):
        path = tmp_path / f"mine-{quick}.json"
        path.write_text(json.dumps({**SMALL, "quick_gelu": quick}))
        assert same_outputs(OpenClipTower(OpenClip(model=str(path), pretrained=str(weights))), network(quick))


@pytest.mark.parametrize("quick", [True, False])
def test_a_local_folder_has_the_activation_of_its_configuration(quick, weights, tmp_path) -> None:
    folder = tmp_path / "clip"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": {**SMALL, "quick_gelu": quick}}))
    model = f"local-dir:{folder}"
    with pytest.raises(GraceError, match="no CLIP weights found"):  # open_clip goes on with random ones
        OpenClipTower(OpenClip(model=model))
    weights.rename(folder / "any_name.pth")
    assert same_outputs(OpenClipTower(OpenClip(model=model)), network(quick))
    assert same_outputs(OpenClipTower(OpenClip(model=model, pretrained="")), network(quick))
    (folder / "other_name.pth").write_bytes((folder / "any_name.pth").read_bytes())
    with pytest.raises(GraceError, match="Multiple checkpoints"):
        OpenClipTower(OpenClip(model=model))
    with pytest.raises(GraceError, match="has its own weights"):
        OpenClipTower(OpenClip(model=model, pretrained=str(folder / "any_name.pth")))


def test_weights_of_another_image_size_are_refused(tmp_path) -> None:
    """open_clip interpolates their positions: a network that no one has trained."""
    larger = {**SMALL, "vision_cfg": {**SMALL["vision_cfg"], "image_size": 48}}
    torch.save(network(True, larger).state_dict(), tmp_path / "weights.pt")
    with pytest.raises(GraceError, match="Resizing position embedding"):
        OpenClipTower(OpenClip(model="ViT-L-14-quickgelu", pretrained=str(tmp_path / "weights.pt")))


def test_a_file_that_is_no_model_configuration_does_not_stand_for_a_published_model(tmp_path) -> None:
    (tmp_path / "ViT-L-14.json").write_text(json.dumps({"model_cfg": SMALL}))
    with pytest.raises(GraceError, match="embed_dim, vision_cfg and text_cfg"):
        OpenClipTower(OpenClip(model=str(tmp_path / "ViT-L-14.json"), pretrained="openai"))


def test_what_others_say_while_a_model_loads_goes_its_way(download, monkeypatch, caplog) -> None:
    plain = factory.download_pretrained

    def talkative(cfg, **more):
        logging.getLogger("hub").info("a request")
        logging.getLogger("hub").warning("slow")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        return plain(cfg, **more)

    monkeypatch.setattr(factory, "download_pretrained", talkative)
    level, handlers = logging.getLogger().level, list(logging.getLogger().handlers)
    with pytest.warns(DeprecationWarning, match="old"):
        OpenClipTower(OpenClip(model="ViT-L-14", pretrained="openai"))
    assert [record.getMessage() for record in caplog.records] == ["slow"]
    assert (logging.getLogger().level, logging.getLogger().handlers) == (level, handlers)


def test_the_default_settings_are_those_that_the_tests_use() -> None:
    assert (
        Tower(kind="open_clip").open_clip == OpenClip(model="ViT-L-14", pretrained="openai") == Config().tower.open_clip
    )
