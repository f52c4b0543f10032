"""The sizes of each part: `full` for docs/explanation/decoding.md, `toy` to check in seconds that every part works."""

from __future__ import annotations

from typing import Any

_FLAMINGO = {
    "architecture": "opt", "cross_attention_every": 2, "dtype": "float32", "scores": True, "without_cache": True,
    "image_shared": True,
}  # fmt: skip
_14M = {**_FLAMINGO, "width": 256, "layers": 7, "heads": 8, "vocabulary": 2048}
_160M = {**_FLAMINGO, "width": 768, "layers": 12, "heads": 12, "vocabulary": 50_280, "cross_attention_every": 3}
_1300M = {
    **_FLAMINGO, "width": 2048, "layers": 20, "heads": 16, "vocabulary": 50_280, "cross_attention_every": 5,
    "dtype": "bfloat16", "scores": False,
}  # fmt: skip
_CLIP_TEXT = {"tokens": 77, "width": 512, "heads": 8, "layers": 12, "dimensions": 512}

FULL: dict[str, dict[str, Any]] = {
    "trie": {
        "shapes": ["k256_L4", "k32_L5", "digits_L8"], "identifiers": [30_000, 123_000, 1_000_000, 10_000_000],
        "repeats": 3, "load_repeats": 15, "prefixes": 1000, "published_up_to": 1_000_000, "lists_up_to": 1_000_000,
    },
    "selection": {
        "settings": {"k256_L4": [2048, 50_280], "k32_L5": [50_280]}, "identifiers": [123_000, 10_000_000],
        "queries": 64, "beams": 10, "repeats": 15, "peer_repeats": 3,
    },
    "end_to_end": {
        "models": {
            "14M": {**_14M, "queries": 16, "repeats": 3},
            "160M": {**_160M, "queries": 2, "repeats": 3},
            "1.3B": {**_1300M, "queries": 1, "repeats": 1, "without_cache": False, "image_shared": False},
        },
        "shape": "k256_L4", "identifiers": 123_000, "beams": 10, "prompt_tokens": 24,
    },
    "dense": {
        "images": [1_000, 10_000, 100_000, 1_000_000], "model": _160M, "text": _CLIP_TEXT, "shape": "k256_L4",
        "beams": 10, "prompt_tokens": 24, "single_generative": 15, "single_dense": 100, "batch": 64, "batch_repeats": 1,
        "hnsw_up_to": 100_000, "ivf_from": 10_000, "recall": 0.95,
    },
}  # fmt: skip

_TINY = {**_FLAMINGO, "width": 64, "layers": 2, "heads": 2, "vocabulary": 2048}

TOY: dict[str, dict[str, Any]] = {
    "trie": {**FULL["trie"], "identifiers": [500], "repeats": 1, "load_repeats": 2, "prefixes": 100},
    "selection": {
        **FULL["selection"], "settings": {"k256_L4": [2048], "k32_L5": [50_280]}, "identifiers": [2_000], "queries": 2,
        "repeats": 1, "peer_repeats": 1,
    },
    "end_to_end": {
        **FULL["end_to_end"], "models": {"tiny": {**_TINY, "queries": 3, "repeats": 1}}, "identifiers": 2_000,
        "prompt_tokens": 12,
    },
    "dense": {
        **FULL["dense"], "images": [500, 2_000], "model": _TINY, "prompt_tokens": 12, "single_generative": 2,
        "single_dense": 4, "batch": 4, "ivf_from": 1_000,
        "text": {"tokens": 16, "width": 32, "heads": 2, "layers": 1, "dimensions": 64},
    },
}  # fmt: skip

for _sizes, _fresh in ((FULL, True), (TOY, False)):
    for _part in _sizes.values():
        _part["fresh"] = _fresh  # whether each row is measured in a separate process

SIZES = {"full": FULL, "toy": TOY}
