"""The small dual encoder: a vision and a text transformer with one embedding space (CLIP, but smaller).

Legend: B images or texts, P patches, L text tokens, D embedding dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from grace.workflow.config import ScratchTower


class Block(nn.Module):
    """A pre-norm transformer block. ReLU: on a CPU, GELU costs as much as the matrix product before it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        batch, length, width = x.shape
        qkv = self.qkv(self.norm_1(x)).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        return x + self.mlp(self.norm_2(x))


def _patch_network(patch: int, width: int) -> nn.Sequential:
    """Pixels to one vector per patch. The convolutions overlap, so that a shape is found anywhere in its patch."""
    layers: list[nn.Module] = []
    before = 3
    for after, kernel in ((24, 5), (48, 3), (64, 3)):
        layers += [nn.Conv2d(before, after, kernel, 2, kernel // 2), nn.ReLU()]
        before = after
    layers.append(nn.Conv2d(before, width, patch // 8, patch // 8))
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
    return nn.Sequential(*layers)


class DualEncoder(nn.Module):
    def __init__(self, settings: ScratchTower, vocabulary: int, max_text: int = 256) -> None:
        super().__init__()
        s = settings
        patches = (s.image_size // s.patch_size) ** 2
        self.patch = _patch_network(s.patch_size, s.width)
        self.patch_norm = nn.LayerNorm(s.width)
        self.image_positions = nn.Parameter(torch.randn(patches, s.width) * 0.02)
        self.image_blocks = nn.ModuleList(Block(s.width, s.heads) for _ in range(s.layers))
        self.image_norm = nn.LayerNorm(s.width)
        self.image_projection = nn.Linear(s.width, s.embedding_dim, bias=False)
        self.words = nn.Embedding(vocabulary, s.text_width)
        nn.init.normal_(self.words.weight, std=0.06)
        self.text_positions = nn.Parameter(torch.randn(max_text, s.text_width) * 0.02)
        self.text_blocks = nn.ModuleList(Block(s.text_width, s.heads) for _ in range(s.text_layers))
        self.text_norm = nn.LayerNorm(s.text_width)
        self.text_projection = nn.Linear(s.text_width, s.embedding_dim, bias=False)
        self.log_scale = nn.Parameter(torch.tensor(2.66))  # CLIP's learned temperature

    def images(self, pixels_B3HW: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels in [-1, 1] to embeddings [B, D], L2-normalised, and visual tokens [B, P, width]."""
        x = self.patch_norm(self.patch(pixels_B3HW).flatten(2).transpose(1, 2)) + self.image_positions
        for block in self.image_blocks:
            x = block(x)
        tokens = self.image_norm(x)
        return F.normalize(self.image_projection(tokens.mean(1)), dim=-1), tokens

    def texts(self, ids_BL: Tensor, real_BL: Tensor) -> Tensor:
        """Token ids and the mask of real tokens to embeddings [B, D], L2-normalised."""
        x = self.words(ids_BL) + self.text_positions[: ids_BL.shape[1]]
        mask = None if bool(real_BL.all()) else real_BL[:, None, None]
        for block in self.text_blocks:
            x = block(x, mask)
        x = self.text_norm(x) * real_BL[..., None]
        return F.normalize(self.text_projection(x.sum(1) / real_BL.sum(1, keepdim=True)), dim=-1)
