"""The tower kind `open_clip`: any model that open_clip knows, by name, JSON configuration or local folder.

Its folder holds the names only; weights stay where open_clip keeps them. Visual tokens are the tower's patch tokens
(`output_tokens`) as OpenFlamingo was trained on them: of the last block, before the final LayerNorm. open_clip up to 2.23 gave
those; later versions give them after the norm, which a published perceiver has never seen.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from grace.config import OpenClip, Tower, parse
from grace.errors import GraceError, did_you_mean
from grace.files import read_json, replacing_folder, write_json
from grace.model.torchvision_shim import import_torchvision


class OpenClipTower:
    """What `open_tower` gives."""

    def __init__(self, settings: OpenClip) -> None:
        self.model, self.transform, self.tokenize = _load(settings)
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
    """Check that the tower loads and write its name down."""
    _load(settings.open_clip)
    with replacing_folder(output, "tower") as folder:
        write_json(folder / "config.json", {"kind": "open_clip", "settings": settings.open_clip.model_dump()})


def open_folder(folder: Path) -> OpenClipTower:
    config = read_json(folder / "config.json", "tower configuration")
    return OpenClipTower(parse(OpenClip, config["settings"], f"{folder}/config.json"))


def _load(settings: OpenClip) -> tuple[Any, Any, Any]:
    import_torchvision()
    import open_clip

    name = settings.model
    if name.endswith(".json"):
        path = Path(name)
        if not path.exists():
            raise GraceError(f"open_clip model configuration {path} does not exist")
        open_clip.add_model_config(path)
        name = path.stem
    elif ":" not in name and name not in open_clip.list_models():
        raise GraceError(f"open_clip has no model {name!r}" + did_you_mean(name, open_clip.list_models()))
    try:
        model, _, transform = open_clip.create_model_and_transforms(
            name, pretrained=settings.pretrained or None, weights_only=True
        )
        tokenize = open_clip.get_tokenizer(name)
    except (OSError, RuntimeError, ValueError) as error:
        raise GraceError(
            f"open_clip model {name!r} with weights {settings.pretrained!r} cannot be loaded "
            f"({str(error).strip().splitlines()[0]}); give a local weights file in tower.open_clip.pretrained"
        ) from None
    except pickle.UnpicklingError:
        raise GraceError(
            f"open_clip model {name!r}: its weights {settings.pretrained!r} hold more than tensors and are not loaded; "
            "take them as safetensors"
        ) from None
    if not hasattr(model.visual, "output_tokens"):
        raise GraceError(f"open_clip model {name!r} gives no patch tokens; choose a ViT")
    model.visual.output_tokens = True
    if getattr(model.visual, "attn_pool", None) is None and getattr(model.visual, "pool_type", "") == "tok":
        model.visual.final_ln_after_pool = True  # the pooled vector is the same, the tokens are those before the norm
    return model, transform, tokenize
