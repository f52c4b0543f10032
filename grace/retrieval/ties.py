"""When scores are tied, and what that does to a ranking.

One rule for both searches and for run files: the higher score first, equal scores by image id, decided before the ranking is cut.
Whether two scores are equal can depend on how a processor adds up a sum, so scores that differ by no more than `TIE` are
not told apart when ranks are certified.
"""

from __future__ import annotations

from collections.abc import Sequence

TIE = 1e-5
"""Nats. Sums of a few fp32 log-probabilities differ by some 1e-6 between batch sizes and between processors."""


def certified_ranks(answers: Sequence[tuple[str, float]], bound: float) -> int:
    """How many of the first answers (image, score; best first) are certain.

    The score of each is above `bound`, which nothing that was left out exceeds, and it is not tied with the next.
    """
    following = [score for _, score in answers[1:]] + [bound]
    certain = 0
    for (_, score), after in zip(answers, following, strict=True):
        if score <= bound or score - after <= TIE:
            break
        certain += 1
    return certain
