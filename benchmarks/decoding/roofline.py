"""What an H200 could do at best, by arithmetic: a pass takes the time of its bytes or its operations, whichever is longer.

    t = max(bytes / BANDWIDTH, operations / PEAK)

Nothing here is measured. A pass reads all weights once and the KV cache of its rows; a product costs two operations per
weight and token. Flat search reads every vector once per batch of queries. Kernel launches, and everything that is not a
matrix product, are assumed to be free. Constants: NVIDIA H200 SXM data sheet, 4.8 TB/s of HBM3e and 989 TFLOP/s of dense
bf16.
"""

from __future__ import annotations

from typing import Any

BANDWIDTH = 4.8e12
PEAK = 989e12
BYTES = 2  # bf16, on both sides

# OpenFlamingo-3B-vitl-mpt1b without its vision tower and perceiver: MPT-1B and its cross-attention, as published.
GENERATIVE = {
    "parameters": 1_311_033_344 + 881_000_496, "layers": 24, "width": 2048,
    "prompt_tokens": 24, "beams": 10, "identifier_tokens": 5,
}  # fmt: skip
# CLIP ViT-L/14: its text side (12 layers of width 768, 77 positions, without the token embeddings), 768 dimensions.
DENSE = {"parameters": 85_054_464 + 768 * 768, "tokens": 77, "dimensions": 768}


def seconds(bytes_read: float, operations: float) -> float:
    """Minimum time of a pass."""
    return max(bytes_read / BANDWIDTH, operations / PEAK)


def generative(queries: int) -> float:
    """Seconds for a batch of queries: the prompts, then one pass per token for all beams. Independent of the gallery.

    The prompt's pass scores the first token, and the last token (the end) is not read, so there is one pass fewer than tokens.
    """
    parameters, weights = GENERATIVE["parameters"], GENERATIVE["parameters"] * BYTES
    tokens, rows = GENERATIVE["prompt_tokens"], queries * GENERATIVE["beams"]
    total = seconds(weights, 2 * parameters * queries * tokens)
    for read in range(1, GENERATIVE["identifier_tokens"]):
        cache = rows * (tokens + read) * 2 * GENERATIVE["layers"] * GENERATIVE["width"] * BYTES
        total += seconds(weights + cache, 2 * parameters * rows)
    return total


def encode(queries: int) -> float:
    """Seconds of the text encoder for a batch of queries."""
    parameters = DENSE["parameters"]
    return seconds(parameters * BYTES, 2 * parameters * queries * DENSE["tokens"])


def flat(queries: int, images: int) -> float:
    """Seconds of exact search among `images` vectors for a batch of queries, encoding included."""
    size = images * DENSE["dimensions"]
    return encode(queries) + seconds(size * BYTES, 2 * size * queries)


def crossover(queries: int) -> float:
    """Number of images beyond which flat search takes longer than generating; both are linear in what they read."""
    per_image = flat(queries, 10**9) - encode(queries)
    return max(0.0, generative(queries) - encode(queries)) / per_image * 10**9


def rows(identifiers: list[int], batches: list[int]) -> list[dict[str, Any]]:
    """The rows of the table, one per batch size and number of images."""
    return [
        {"queries": batch, "identifiers": number, "generative_s": generative(batch), "flat_s": flat(batch, number)}
        for batch in batches
        for number in identifiers
    ]


def constants() -> dict[str, Any]:
    return {"formula": "t = max(bytes / bandwidth, operations / peak)", "bandwidth": BANDWIDTH, "peak": PEAK,
            "bytes_a_number": BYTES, "generative": GENERATIVE, "dense": DENSE}  # fmt: skip
