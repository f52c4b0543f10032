"""The tower kind `open_clip`: any model that open_clip knows, by name, JSON configuration or local folder.

Its folder only records the names; weights stay where open_clip keeps them. A network is loaded exactly as its weights were
trained, or not at all: the activation is that of the pretrained tag (open_clip itself builds the named model and only warns
if the tag's activation differs), and any other warning of open_clip is an error.

Visual tokens are the tower's patch tokens (`output_tokens`) as OpenFlamingo was trained on them: from the last block, before
the final LayerNorm. open_clip up to 2.23 returned those; later versions return them after the norm, which no published
perceiver was trained on.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from grace.system.errors import GraceError, did_you_mean
from grace.system.files import read_json, replacing_folder, write_json
from grace.system.progress import busy
from grace.system.torchvision_shim import import_torchvision
from grace.towers.openclip_warnings import warnings_of_open_clip
from grace.workflow.config import OpenClip, Tower, parse


class OpenClipTower:
    """The tower that `open_tower` returns."""

    def __init__(self, settings: OpenClip) -> None:
        self.model, self.transform, self.tokenize = _load(settings)
        self.activation = activation_of(self.model)
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
        self.model = self.model.to(self.device, self.dtype).eval()
        self.temperature = 1 / self.model.logit_scale.exp().item()

    @torch.inference_mode()
    def encode_images(self, images: list[Image.Image]) -> tuple[Tensor, Tensor]:
        pixels = torch.stack([self.transform(image) for image in images]).to(self.device, self.dtype)
        pooled, tokens = self.model.visual(pixels)
        return F.normalize(pooled.float(), dim=-1).cpu(), tokens.float().cpu()

    @torch.inference_mode()
    def encode_text(self, texts: list[str], batch: int = 256) -> Tensor:
        parts = [
            self.model.encode_text(self.tokenize(texts[start : start + batch]).to(self.device)).float()
            for start in range(0, len(texts), batch)
        ]
        return F.normalize(torch.cat(parts), dim=-1).cpu()


def make(*, dataset: Path, output: Path, settings: Tower) -> None:
    """Check that the tower loads, and record its name."""
    with busy("loading the tower"):
        _load(settings.open_clip)
    with replacing_folder(output, "tower") as folder:
        write_json(folder / "config.json", {"kind": "open_clip", "settings": settings.open_clip.model_dump()})


def open_folder(folder: Path) -> OpenClipTower:
    config = read_json(folder / "config.json", "tower configuration")
    return OpenClipTower(parse(OpenClip, config["settings"], f"{folder}/config.json"))


def activation_of(model: torch.nn.Module) -> str:
    """The activation that open_clip built a model with: "QuickGELU" or "GELU"."""
    from open_clip.transformer import QuickGELU

    return "QuickGELU" if any(isinstance(module, QuickGELU) for module in model.modules()) else "GELU"


def _load(settings: OpenClip) -> tuple[Any, Any, Any]:
    """The model with its weights, the image transform and the tokenizer."""
    import_torchvision()
    import open_clip

    name, pretrained = _registered(settings), _weights(settings)
    which = f"open_clip model {name!r} with weights {pretrained!r}" if pretrained else f"open_clip model {name!r}"
    quick = _tag_wants_quick_gelu(settings, name, pretrained)
    try:
        with warnings_of_open_clip() as said:
            model, _, transform = open_clip.create_model_and_transforms(
                name, pretrained=pretrained, force_quick_gelu=quick, weights_only=True
            )
            tokenize = open_clip.get_tokenizer(name)
    except (OSError, RuntimeError, ValueError) as error:
        raise GraceError(
            f"{which} cannot be loaded ({str(error).strip().splitlines()[0]}); set tower.open_clip.pretrained to a local "
            "weights file"
        ) from None
    except pickle.UnpicklingError:
        raise GraceError(
            f"{which}: the weights contain more than tensors and are not loaded; use a safetensors file"
        ) from None
    mismatches = [line for line in said if not _expected(line, settings)]
    if mismatches:
        raise GraceError(
            f"{which} would differ from the network that was trained (open_clip warns: {mismatches[0].strip()}); set "
            "tower.open_clip.model to the model of these weights, or to its JSON configuration"
        )
    if not hasattr(model.visual, "output_tokens"):
        raise GraceError(f"open_clip model {name!r} has no patch tokens; choose a ViT")
    model.visual.output_tokens = True
    if getattr(model.visual, "attn_pool", None) is None and getattr(model.visual, "pool_type", "") == "tok":
        model.visual.final_ln_after_pool = True  # same pooled vector, but tokens from before the norm
    return model, transform, tokenize


def _registered(settings: OpenClip) -> str:
    """The name under which open_clip knows the model; a JSON configuration is registered first."""
    import open_clip

    name = settings.model
    if name.endswith(".json"):
        path = Path(name)
        if not path.exists():
            raise GraceError(f"open_clip model configuration {path} does not exist")
        open_clip.add_model_config(path)
        if open_clip.get_model_config(path.stem) != read_json(path, "open_clip model configuration"):
            raise GraceError(
                f"open_clip cannot read a model from {path}: it must have embed_dim, vision_cfg and text_cfg (the model_cfg of "
                "an open_clip_config.json)"
            )
        return path.stem
    if ":" not in name and name not in open_clip.list_models():
        raise GraceError(f"open_clip has no model {name!r}" + did_you_mean(name, open_clip.list_models()))
    return name


def _weights(settings: OpenClip) -> str | None:
    """The `pretrained` argument for open_clip; a model from a hub or a local folder (`local-dir:`) has its own weights."""
    if ":" not in settings.model:
        return settings.pretrained or None
    if settings.pretrained not in ("", OpenClip.model_fields["pretrained"].default):
        raise GraceError(
            f"tower.open_clip.pretrained is {settings.pretrained!r}, but {settings.model!r} has its own weights; set it to ''"
        )
    return None


def _expected(line: str, settings: OpenClip) -> bool:
    """Whether a warning states what was requested: random weights (`pretrained: ''`), or a folder's only weights file."""
    if line.startswith("Multiple checkpoints found"):  # also logged for a single file with an unusual name
        folder = Path(settings.model.removeprefix("local-dir:"))
        return sum(path.suffix in (".safetensors", ".bin", ".pth") for path in folder.iterdir()) == 1
    random = line.startswith("No pretrained weights loaded") or line.endswith("initialized partially.")
    return random and not settings.pretrained and ":" not in settings.model


def _tag_wants_quick_gelu(settings: OpenClip, name: str, pretrained: str | None) -> bool:
    """Whether the weights of a pretrained tag were trained with QuickGELU; False without a tag.

    A weights file does not say. If open_clip publishes both kinds of weights for the model, the configuration must say it.
    """
    import open_clip
    from open_clip.pretrained import get_pretrained_cfg

    if pretrained is None or ":" in name:
        return False
    tag = get_pretrained_cfg(name, pretrained)
    if tag:
        return bool(tag.get("quick_gelu", False))
    own = settings.model.endswith(".json") or "quick_gelu" in open_clip.get_model_config(name)
    tags = [] if own else open_clip.list_pretrained_tags_by_model(name)
    quick = [tag for tag in tags if get_pretrained_cfg(name, tag).get("quick_gelu", False)]
    if quick:
        raise GraceError(
            f"the activation of the weights file {pretrained} is unknown: some weights of {name}, such as {quick[0]}, need "
            f"QuickGELU, others GELU. Set tower.open_clip.model to {name}-quickgelu, or to a JSON configuration (for GELU, "
            'with "quick_gelu": false), or to local-dir:FOLDER with the open_clip_config.json of the weights'
        )
    return False
