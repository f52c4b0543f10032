"""When scores are tied, and what that does to a ranking.

One rule for both searches and for run files: the higher score first, tied scores by image id (prefixes of identifiers by their
node), decided before anything is cut. A tie that was cut is not certified.

Scores that are equal in theory differ in their last bits, by where they stand in a matrix product and by the size of the batch. So
scores are tied whose difference is no more than that (`apart`), and so are scores that a chain of ties connects: equal ones
always stay together, wherever the limit falls.

Legend: B queries, N scores of each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

TIE, ROUND = 1e-5, 10.0
"""Scores up to `ROUND` nats are tied within `TIE` nats, larger ones within as much more. Between batch sizes, sums of fp32
log-probabilities differ by up to 2.3e-7 of their size, and those near 0 by the rounding of the logits that they come from."""


def apart(higher: Tensor, lower: Tensor, size: Tensor | None = None) -> Tensor:
    """Whether `higher` scores more than `lower` for certain, bool; two that are -inf do not.

    `size`: nats that the scores were rounded at (default: the size of `higher`).
    """
    return higher - lower > TIE * ((higher if size is None else size).abs() / ROUND).clamp(min=1)


def first_of(scores_BN: Tensor, number: int) -> Tensor:
    """Places of the best `number` of N scores, best first, tied ones in the order of their places: int64 [B, number].

    `topk` alone breaks ties as its algorithm happens to, which depends on N and on the device. On a processor it is asked all the
    same, and all scores are sorted only where there is a tie at the cut; on an accelerator to ask would make the host wait.
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
    """`keys_BN` (int64, not negative), those of each group (`tie_groups`) in ascending order: int64 [B, N]."""
    groups = groups_BN * (keys_BN.amax() + 1)
    return (groups + keys_BN).sort(dim=1).values - groups


def tie_groups(best_BN: Tensor, size: Tensor | None = None) -> Tensor:
    """A number for each of scores that fall, from 0 and rising: the same for tied ones, int64 [B, N]."""
    steps = apart(best_BN[:, :-1], best_BN[:, 1:], size).long().cumsum(1)
    return torch.cat([torch.zeros_like(best_BN[:, :1], dtype=torch.long), steps], 1)


def ranked(scores: Mapping[str, float]) -> list[tuple[str, float]]:
    """Images and scores, best first, tied ones by id: they get the score of their best, so that a run file keeps the order."""
    out: list[tuple[str, float]] = []
    before = float("inf")
    for image, score in sorted(scores.items(), key=lambda pair: -pair[1]):
        out.append((image, score if not out or _apart(before, score) else out[-1][1]))
        before = score
    return sorted(out, key=lambda pair: (-pair[1], pair[0]))


def certified_ranks(answers: Sequence[tuple[str, float]], bound: float) -> int:
    """How many of the first answers (image, score; best first) are certain.

    The score of each is above `bound`, which nothing that was left out exceeds, and above that of the next, tied with neither.
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
