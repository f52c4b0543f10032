"""Lengths of the samples in tokens: measured if data set and tokenizer exist, assumed otherwise."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from grace.workflow.config import Config

PROMPT = 7  # tokens of a retrieve sample besides caption and identifier: `caption:`, <image>, `id`, end
# Captions of Flickr30k: 12.3 words on average, 78 in the longest (Karpathy's file), at an assumed 1.25 tokens per word.
MEAN_CAPTION, LONGEST_CAPTION = 16, 98
MEMORIZE_PROMPT = 10


@dataclass(frozen=True)
class Lengths:
    mean: int  # tokens of a retrieve sample, including padding
    longest: int
    memorize: int  # tokens of a memorize sample
    supervised: int  # tokens that contribute to the loss
    identifier_tokens: int  # tokens that structured identifiers add to the vocabulary
    source: str  # where mean and longest come from


def lengths(config: Config, images: int) -> Lengths:
    """The lengths of `config` with `images` images."""
    depth = levels(images, config.identifiers.clusters, config.identifiers.leaf_size)
    structured = "structured" in config.schemes
    # identifiers of other schemes have about the same length, except semantic ones, which are captions
    identifier = depth + 1
    tokens = (depth + 1) * max(config.identifiers.clusters, config.identifiers.leaf_size) if structured else 0
    mean, longest, source = _captions(config)
    return Lengths(
        mean=mean + PROMPT + identifier,
        longest=longest + PROMPT + identifier,
        memorize=MEMORIZE_PROMPT + identifier,
        supervised=identifier + 2,  # `id` and the end token
        identifier_tokens=tokens,
        source=source,
    )


def levels(images: int, clusters: int, leaf: int) -> int:
    """Levels of clusters above leaves of at most `leaf` images, for a perfectly balanced tree."""
    return max(1, math.ceil(math.log(max(1.0, images / leaf)) / math.log(clusters)))


def _captions(config: Config) -> tuple[int, int, str]:
    folder = Path(config.output) / config.dataset.name
    if not (folder / "dataset").is_dir() or not (folder / "tokenizer").is_dir():
        return MEAN_CAPTION, LONGEST_CAPTION, "assumed: captions as long as Flickr30k's"
    from grace.data.tables import load_dataset
    from grace.identifiers.base import read_tokenizer

    tokenizer, texts = read_tokenizer(folder / "tokenizer"), load_dataset(folder / "dataset").captions["text"]
    found = sorted(len(ids) for ids in tokenizer(texts.tolist(), add_special_tokens=False)["input_ids"])
    return round(sum(found) / len(found)), found[-1], f"measured on {folder}"
