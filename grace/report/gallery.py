"""Hits and misses with pictures: the query, the correct picture, and the pictures retrieved.

Part of `python -m grace report`; reads the pictures of the data set. Examples are drawn at random with a fixed seed, not
hand-picked; pictures become small data URIs inside the page.
"""

from __future__ import annotations

import base64
import io
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from grace.data.images import read_image
from grace.data.tables import DatasetTables
from grace.report.inputs import Inputs, System

SHOWN = 5
"""Number of retrieved pictures shown per example."""
SIDE = 160
"""Longest side of a picture on the page, in pixels."""


@dataclass(frozen=True)
class Picture:
    uri: str
    alt: str
    rank: int
    """rank in the answer; 0 for the correct picture shown as reference"""
    gold: bool
    identifier: str


@dataclass(frozen=True)
class Example:
    query_id: str
    query: str
    gold: Picture
    retrieved: list[Picture]
    rank: int
    """rank of the correct picture; 0: not among the answers kept"""


@dataclass(frozen=True)
class Examples:
    """The examples of one system, and the numbers of hits and misses from which they are drawn."""

    label: str
    name: str
    hits: list[Example]
    misses: list[Example]
    hit_count: int
    miss_count: int
    near_count: int
    """misses whose picture is further down the list"""


@dataclass
class Pictures:
    """The data set's pictures as data URIs, each made once, and their alternative texts."""

    dataset: DatasetTables
    made: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.files = self.dataset.images.set_index("image_id")["file"]
        self.words = self.dataset.captions.drop_duplicates("image_id").set_index("image_id")["text"]

    def uri(self, image_id: str) -> str:
        if image_id not in self.made:
            self.made[image_id] = data_uri(self.dataset.image_path(self.files[image_id]))
        return self.made[image_id]

    def picture(self, image_id: str, rank: int, gold: bool, identifiers: dict[str, str]) -> Picture:
        said = "the correct picture" if rank == 0 else f"rank {rank}{', the correct picture' if gold else ''}"
        alt = f"{said}: {self.words[image_id]}"
        return Picture(self.uri(image_id), alt, rank, gold, identifiers.get(image_id, ""))


def examples(inputs: Inputs, system: System, count: int, pictures: Pictures) -> Examples:
    """Draw `count` hits (picture at rank 1) and `count` misses of one system, with distinct pictures where possible."""
    # Every system has its own random stream: adding a system does not change the examples of the others.
    rng = np.random.default_rng(zlib.crc32(system.label.encode()))
    texts = inputs.dataset.captions.set_index("caption_id")["text"]
    identifiers = _first_identifiers(system)
    hit = system.ranks == 1
    drawn = [_draw(system.ranks.index[mask], inputs.gold, count, rng) for mask in (hit, ~hit)]
    wanted = set(drawn[0]) | set(drawn[1])
    answers = (
        system.run[system.run["query_id"].isin(wanted) & (system.run["rank"] <= SHOWN)]
        .groupby("query_id")["doc_id"]
        .agg(list)
    )

    def example(query_id: str) -> Example:
        gold = inputs.gold[query_id]
        docs = answers.get(query_id, [])
        retrieved = [pictures.picture(doc, rank, doc == gold, identifiers) for rank, doc in enumerate(docs, start=1)]
        wanted = pictures.picture(gold, 0, True, identifiers)
        return Example(query_id, texts[query_id], wanted, retrieved, int(system.ranks[query_id]))

    return Examples(
        label=system.label,
        name=system.name,
        hits=[example(query) for query in drawn[0]],
        misses=[example(query) for query in drawn[1]],
        hit_count=int(hit.sum()),
        miss_count=int((~hit).sum()),
        near_count=int((system.ranks > 1).sum()),
    )


def data_uri(path: Path) -> str:
    """Return a picture as a data URI: a small PNG unchanged, others read by `grace.data.images`, as JPEG of at most `SIDE`.

    A photograph's own bytes are never put on the page, since its metadata may reveal where it was taken.
    """
    try:
        with Image.open(path) as image:
            if image.format == "PNG" and image.mode in ("RGB", "L") and max(image.size) <= SIDE and not image.info:
                image.load()
                return _uri("image/png", path.read_bytes())
    except (OSError, SyntaxError, Image.DecompressionBombError):
        pass  # read_image raises a clear error
    small = read_image(path)
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    small.save(file, format="JPEG", quality=82, optimize=True)
    return _uri("image/jpeg", file.getvalue())


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _draw(queries: pd.Index, gold: pd.Series, count: int, rng: np.random.Generator) -> list[str]:
    """Draw `count` query ids, first one per picture, then from the rest; in the order of the draw."""
    shuffled = queries[rng.permutation(len(queries))]
    again = gold.loc[shuffled].duplicated().to_numpy()
    return [*shuffled[~again], *shuffled[again]][:count]


def _first_identifiers(system: System) -> dict[str, str]:
    if system.identifiers is None:
        return {}
    table = system.identifiers
    several = table["image_id"].map(table["image_id"].value_counts()) > 1
    first = table.assign(text=table["text"] + np.where(several, " …", "")).drop_duplicates("image_id")
    return dict(zip(first["image_id"], first["text"], strict=True))
