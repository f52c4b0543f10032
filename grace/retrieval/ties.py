"""When scores are tied, and how ties are ranked.

One rule for both searches and for run files: the higher score first, tied scores by image id (prefixes of identifiers by their
node), decided before anything is cut. A tie across the cut is not certified.

Scores that are equal in theory differ in their last bits, depending on their place in a matrix product and on the batch size. So
scores that differ by no more than that are tied (`apart`), and so are scores connected by a chain of ties: equal ones always
stay together, wherever the limit falls.

Legend: B queries, N scores of each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

TIE, ROUND = 1e-5, 10.0
"""Scores up to `ROUND` nats are tied within `TIE` nats, larger ones within proportionally more. Between batch sizes, sums of
fp32 log-probabilities differ by up to 2.3e-7 of their size, and those near 0 by the rounding of the logits they come from."""


def apart(higher: Tensor, lower: Tensor, size: Tensor | None = None) -> Tensor:
    """Whether `higher` certainly scores more than `lower`, bool; False if both are -inf.

    `size`: magnitude at which the scores were rounded, nats (default: that of `higher`).
    """
    return higher - lower > TIE * ((higher if size is None else size).abs() / ROUND).clamp(min=1)


def first_of(scores_BN: Tensor, number: int) -> Tensor:
    """Places of the best `number` of N scores, best first, tied ones in the order of their places: int64 [B, number].

    `topk` breaks ties arbitrarily, depending on N and on the device. On the CPU it is used anyway, and all scores are sorted only
    if there is a tie at the cut; on an accelerator, checking for a tie would make the host wait.
    """
    if scores_BN.device.type != "cpu":
        return _sorted(scores_BN, number)
    best, places = scores_BN.topk(min(number + 1, scores_BN.shape[1]), dim=1)
    chosen = in_order(tie_groups(best[:, :number]), places[:, :number])
    if best.shape[1] > number:
        tied = ~apart(best[:, number - 1], best[:, number]) & best[:, number].isfinite()
        if tied.any():
            chosen[tied] = _sorted(scores_BN[tied], number)
    return chosen


def _sorted(scores_BN: Tensor, number: int) -> Tensor:
    """`first_of` by sorting all of the scores."""
    best, places = scores_BN.sort(dim=1, descending=True)
    return in_order(tie_groups(best), places)[:, :number]


def in_order(groups_BN: Tensor, keys_BN: Tensor) -> Tensor:
    """`keys_BN` (int64, not negative), sorted in ascending order within each group (`tie_groups`): int64 [B, N]."""
    groups = groups_BN * (keys_BN.amax() + 1)
    return (groups + keys_BN).sort(dim=1).values - groups


def tie_groups(best_BN: Tensor, size: Tensor | None = None) -> Tensor:
    """Group numbers of descending scores, from 0 and ascending, the same for tied scores: int64 [B, N]."""
    steps = apart(best_BN[:, :-1], best_BN[:, 1:], size).long().cumsum(1)
    return torch.cat([torch.zeros_like(best_BN[:, :1], dtype=torch.long), steps], 1)


def ranked(scores: Mapping[str, float]) -> list[tuple[str, float]]:
    """Images and scores, best first, tied ones by id and with the best score among them, so that a run file keeps the order."""
    out: list[tuple[str, float]] = []
    before = float("inf")
    for image, score in sorted(scores.items(), key=lambda pair: -pair[1]):
        out.append((image, score if not out or _apart(before, score) else out[-1][1]))
        before = score
    return sorted(out, key=lambda pair: (-pair[1], pair[0]))


def certified_ranks(answers: Sequence[tuple[str, float]], bound: float) -> int:
    """How many of the first answers (image, score; best first) are certain.

    The score of each is above `bound`, which no omitted answer exceeds, and above the next score, and tied with neither.
    """
    following = [score for _, score in answers[1:]] + [bound]
    certain = 0
    for (_, score), after in zip(answers, following, strict=True):
        if not _apart(score, max(after, bound)):
            break
        certain += 1
    return certain


def _apart(higher: float, lower: float) -> bool:
    """`apart` of two numbers."""
    return higher - lower > TIE * max(1.0, abs(higher) / ROUND)
