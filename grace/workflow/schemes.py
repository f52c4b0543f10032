"""The registry of identifier schemes: one line per scheme.

The function of scheme NAME is `NAME` in grace/identifiers/NAME.py; its keys in the configuration are `train.NAME`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Scheme:
    """A description of the scheme's identifiers, and the defaults of `train.NAME` that differ from `train`."""

    description: str
    training: dict[str, Any] = field(default_factory=dict)
    objective: str = "generate"  # a name in grace.training.objectives.OBJECTIVES


SCHEMES: dict[str, Scheme] = {
    "numeric": Scheme("running number, digits separated"),
    "string": Scheme("running number, as the tokenizer splits it"),
    "semantic": Scheme("gold captions of train images, pseudo-queries of gallery images"),
    "structured": Scheme("path in a tree of clusters of embeddings", {"memorize_batch": 64, "start_from": "atomic"}),
    "atomic": Scheme(
        "one class per image", {"steps": 450, "learning_rate": 2e-3, "pseudo_query_share": 0.0}, "classify"
    ),
}
