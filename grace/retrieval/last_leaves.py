"""Score all remaining identifiers below the beams in one forward pass, if there are few of them.

Near the end of an identifier a beam often has only one or two continuations. Feeding them whole then costs little more
than feeding their next tokens, and saves the passes of the remaining levels; every score is the one that the
level-by-level search would give, and nothing more is pruned.

Legend: B queries, K beams, M leaves, m remaining tokens, R ranges, D depth of the trie, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import DynamicCache

from grace.identifiers.tree import Trie
from grace.retrieval.hypotheses import MINUS, Beams, log_normaliser


def room_for(trie: Trie, beam: Beams, depth: int, most: int) -> int:
    """The largest number of leaves that a query has below its beams at `depth`, or 0 if that is more than `most`.

    Also 0 if only one level is left, where it is not worth it. On an accelerator the number is that of the worst beams that the
    tree allows, so that shapes never depend on scores.
    """
    if most < 1 or trie.depth - depth < 2:
        return 0
    if beam.nodes.device.type == "cpu":
        counts = sum(count for _, count in _ranges(trie, beam, depth))
        room = int(counts.sum(1).max())
    else:
        room = most_below(trie, depth, beam.nodes.shape[1])
    return room if room <= most else 0


def most_below(trie: Trie, depth: int, beams: int) -> int:
    """The largest number of leaves below `beams` different nodes of a depth."""
    return int(trie.most_leaves[depth][:beams].sum())


def score_leaves(
    model, logits_BKV: Tensor, cache: DynamicCache, media_1NC: Tensor, trie: Trie, beam: Beams, depth: int, room: int
) -> tuple[Tensor, Beams, int]:
    """Scores (f32 [B, M]) of all identifiers below the beams, these as finished `Beams`, and the number of model rows read.

    Scores use the full-vocabulary softmax. `cache` holds the beams' prefixes, [B * K] rows, and is consumed.
    """
    batch, width = beam.nodes.shape
    nodes, origin, real = leaves_below(trie, beam, depth, room)
    tokens = trie.paths(nodes)
    left = trie.depth - depth
    ahead = tokens[..., depth:]  # -1 after an identifier's last token
    fed = ahead.clamp(min=0).reshape(-1, left)
    rows = torch.arange(batch, device=nodes.device)[:, None] * width + origin
    cache.reorder_cache(rows.flatten())
    hidden, _ = model.hidden_states(fed, media_1NC, past_key_values=cache)
    scores = beam.scores.gather(1, origin)
    base = log_normaliser(logits_BKV)
    first = torch.where(ahead[..., 0] >= 0, ahead[..., 0], trie.end)
    scores = scores + (
        logits_BKV.flatten(0, 1)[rows.flatten(), first.flatten()].view_as(scores) - base.gather(1, origin)
    )
    for place in range(left):  # the logits of one level at a time: those of all levels would be too large
        logits = model.head(hidden[:, place]).float()
        following = ahead[..., place + 1] if place + 1 < left else torch.full_like(ahead[..., 0], -1)
        wanted = torch.where(following >= 0, following, trie.end)
        gain = logits.gather(1, wanted.view(-1, 1))[:, 0] - log_normaliser(logits)
        scores = scores + gain.view_as(scores).masked_fill(ahead[..., place] < 0, 0.0)  # it has already ended
    done = Beams(scores.masked_fill(~real, MINUS), nodes, tokens)
    return done.scores, done, len(fed) * left


def leaves_below(trie: Trie, beam: Beams, depth: int, room: int) -> tuple[Tensor, Tensor, Tensor]:
    """Nodes of the leaves at or below the beams' nodes, the beam of each (int64 [B, room]), and which are real."""
    ranges = _ranges(trie, beam, depth)
    starts = torch.stack([start for start, _ in ranges], -1).flatten(1)  # [B, K * R]
    counts = torch.stack([count for _, count in ranges], -1).flatten(1)
    ends = counts.cumsum(1)
    slots = torch.arange(room, device=beam.nodes.device).expand(len(counts), -1).contiguous()
    at = torch.searchsorted(ends, slots, right=True).clamp(max=counts.shape[1] - 1)
    real = slots < ends[:, -1:]
    leaves = (starts.gather(1, at) + slots - (ends - counts).gather(1, at)).masked_fill(~real, 0)
    return trie.nodes_of(leaves), (at // len(ranges)).masked_fill(~real, 0), real


def _ranges(trie: Trie, beam: Beams, depth: int) -> list[tuple[Tensor, Tensor]]:
    """For every depth from `depth` on at which identifiers end: first leaf number and number of leaves, int64 [B, K]."""
    begin, end = beam.nodes, beam.nodes + 1
    real = beam.scores > MINUS
    out = []
    for level in range(depth, trie.depth + 1):
        if trie.leaves_at[level]:
            first = trie.leaves_before(begin)
            out.append((first, (trie.leaves_before(end) - first) * real))
        if level < trie.depth:
            begin, end = trie.first[begin].long(), trie.first[end].long()
    return out
