"""What a search returns, the same for every kind of system: ranked images, certificates and counts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

Ranking = list[tuple[str, float]]
"""Images with their scores, best first."""


@dataclass(frozen=True)
class Counts:
    """Totals over the queries of one search, as `retrieval.json` has them."""

    hypotheses: int  # finished identifiers (atomic: classes) that were returned
    invalid: int  # of these, those that are not the identifier of their image
    duplicates: int  # identifiers of an image that the same query had already found
    failed_queries: int  # queries without any image
    model_rows_per_query: float  # prefixes that the model read
    certified: float  # share of the queries with all requested ranks certified
    certified_ranks: list[float]  # [r - 1]: share of the queries whose first r ranks are certified
    beams_used: int | None = None  # width of the beam search; None: a search without beams

    @property
    def valid_rate(self) -> float:
        """Share of the hypotheses that are valid; 0 if there are none."""
        return 1 - self.invalid / self.hypotheses if self.hypotheses else 0.0

    def summary(self) -> dict[str, Any]:
        """Everything by name, for JSON."""
        values = {name: value for name, value in asdict(self).items() if value is not None}
        return {**values, "valid_rate": self.valid_rate}


@dataclass(frozen=True)
class Found:
    """The answers to a list of queries.

    answers: images and scores by query id, in the order of the queries; the score is a log-likelihood in nats, for the dual
    encoder a cosine. certified: by query id, how many of the first answers no other image can displace; None if the search
    gives no certificate (the dual encoder).
    """

    answers: dict[str, Ranking]
    certified: dict[str, int] | None
    counts: Counts | None = None


def certified_shares(certified: np.ndarray, depth: int) -> tuple[float, list[float]]:
    """The share of queries with `depth` certified ranks, and for r = 1 .. depth the share of queries with at least r.

    `certified`: certified ranks of every query, int64 [queries].
    """
    return float((certified >= depth).mean()), [float((certified >= rank).mean()) for rank in range(1, depth + 1)]
