"""Trie-constrained beam search over Flamingo with a KV cache.

The score of an identifier is the sum of its tokens' log-probabilities, its end token included, with no length penalty. With
`full` (the default) a token's probability is that of the full-vocabulary softmax, not renormalised over what the trie
allows; `children` and `level` renormalise.

Exactness: scores only decrease along a path, so the score of a pruned prefix bounds every identifier below it. `bound` is
the best score that an unscored identifier can have; identifiers that score above it are exact, order included.
`best_first` continues from the pruned prefixes until nothing can change the answer.

Tied scores are ordered before anything is cut: identifiers by the first id among their images, prefixes by their node.

Beams carry node ids of the trie. The prompt is read once per query; the top-k runs over children, not over the vocabulary.
Shapes depend on the trie, the beams and the batch only, never on a score, so that nothing has to return to the host inside
the loop. There may be fewer valid hypotheses than beams: an empty place has the score -inf and node 0.

Legend: B queries, K beams, F children, V vocabulary, P places of the pool of finished hypotheses, D depth of the trie.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from transformers import DynamicCache

from grace.identifiers.tree import Trie
from grace.retrieval.hypotheses import FULL, MINUS, Beams, Hypotheses, Rule, empty_pool, roots
from grace.retrieval.last_leaves import room_for, score_leaves
from grace.retrieval.ties import apart, first_of


@torch.inference_mode()
def beam_search(
    model, prompts_BL: Tensor, media_1NC: Tensor, trie: Trie, beams: int, places: int, rule: Rule = FULL,
    leaves_at_once: int = 0,
) -> Hypotheses:  # fmt: skip
    """The best `places` identifiers found with `beams` beams for prompts of one length, int64 [B, L].

    `media_1NC` is the resampled pad image, [1, 1, N, C]; `trie` is on the model's device and has an end token. As soon as
    a query has at most `leaves_at_once` identifiers below its beams, all of them are scored in one pass.
    """
    logits, cache = read_prompts(model, prompts_BL, media_1NC)
    return descend(model, logits, cache, media_1NC, trie, beams, places, rule, leaves_at_once)


def read_prompts(model, prompts_BL: Tensor, media_1NC: Tensor) -> tuple[Tensor, DynamicCache]:
    """Logits after the prompts, f32 [B, V], and the cache of B rows."""
    hidden, cache = model.hidden_states(prompts_BL, media_1NC, past_key_values=DynamicCache())
    return model.head(hidden[:, -1]).float(), cache


def descend(
    model, logits_BV: Tensor, cache: DynamicCache, media_1NC: Tensor, trie: Trie, beams: int, places: int, rule: Rule,
    leaves_at_once: int = 0, pruned: Callable[[int, Tensor, Tensor, DynamicCache], None] | None = None,
) -> Hypotheses:  # fmt: skip
    """Beam search from prompts that the model has read. Extends `cache` in place.

    `pruned` is called at every level with its depth, the scores and nodes of the pruned prefixes (f32 and int64 [B, K * F],
    -inf: none) and the cache of the K * B rows that they continue, which the callee must not keep. `bound` then excludes
    these prefixes.
    """
    batch, device = len(logits_BV), logits_BV.device
    logits, beam = logits_BV[:, None], roots(batch, trie.depth, device)
    pool = empty_pool(batch, places, trie.depth, device)
    bound = torch.full((batch,), MINUS, device=device)
    rows = batch
    at_once = leaves_at_once if rule.normalisation == "full" else 0
    for depth in range(trie.depth + 1):
        room = room_for(trie, beam, depth, at_once)
        if room:
            ended, whole, fed = score_leaves(model, logits, cache, media_1NC, trie, beam, depth, room)
            pool, rows = finish(pool, ended, whole, trie), rows + fed
            break
        ended, grown, children = expand(trie, beam, logits, depth, rule)
        if ended is not None:
            pool = finish(pool, ended, beam, trie)
        if grown is None:
            break
        flat, nodes = grown.flatten(1), children.flatten(1)
        if stop_early(trie, device, flat, pool):
            if pruned is None:
                bound = torch.maximum(bound, flat.amax(1))
            else:
                pruned(depth, flat, nodes, cache)
            break
        width = min(beams, flat.shape[1])
        chosen = first_of(flat, width)
        scores, rest = flat.gather(1, chosen), flat.scatter(1, chosen, MINUS)
        if pruned is None:
            bound = torch.maximum(bound, rest.amax(1))
        else:
            pruned(depth, rest, nodes, cache)
        parents = chosen // children.shape[2]
        beam = step(trie, beam, scores, parents, nodes.gather(1, chosen), depth)
        first_rows = torch.arange(batch, device=device)[:, None] * logits.shape[1]
        cache.reorder_cache((first_rows + parents).flatten())
        tokens = beam.tokens[..., depth].clamp(min=0).reshape(-1, 1)
        hidden, cache = model.hidden_states(tokens, media_1NC, past_key_values=cache)
        logits = model.head(hidden[:, -1]).float().view(batch, width, -1)
        rows += batch * width
    return replace(pool, bound=torch.maximum(bound, pool.bound), model_rows=rows)


def stop_early(trie: Trie, device: torch.device, open_BC: Tensor, pool: Hypotheses) -> bool:
    """Whether no open prefix can enter the pool or tie with its last, since scores only decrease; checked on the CPU only,
    where reading a value is free.

    On an accelerator the check would make the host wait at every level, so the remaining levels are run instead. If all
    identifiers have one length, the pool is empty until the last level and there is nothing to check.
    """
    if trie.uniform or device.type != "cpu":
        return False
    best = open_BC.amax(1)
    return bool((apart(pool.scores.amin(1), best) | (best == MINUS)).all())


def expand(
    trie: Trie, beam: Beams, logits_BKV: Tensor, depth: int, rule: Rule
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """One level of beams at `depth`: scores of the identifiers that end there, f32 [B, K] (None: none can), and scores
    (f32) and nodes (int64) of all children, [B, K, F] (None: the last level). What does not exist scores -inf.
    """
    device, valid = beam.nodes.device, []
    end = grown = children = None
    if trie.leaves_at[depth]:
        end = logits_BKV[..., trie.end]
        if not trie.uniform:
            end = end.masked_fill(~trie.is_leaf[beam.nodes], MINUS)
        valid.append(end[..., None])
    if depth < trie.depth:
        first = trie.first[beam.nodes].long()
        number = (trie.first[beam.nodes + 1] - first) * (beam.scores > MINUS)
        offsets = torch.arange(trie.fan_out[depth], device=device)
        absent = offsets >= number[..., None]
        children = (first[..., None] + offsets).masked_fill_(absent, 0)
        grown = (
            logits_BKV.gather(2, trie.tokens_into(children).flatten(2)).view_as(children).masked_fill_(absent, MINUS)
        )
        valid.append(grown)
    base = rule.base(logits_BKV, depth, torch.cat(valid, -1) if rule.normalisation == "children" else None)
    base = torch.where(beam.scores > MINUS, base, 0.0)  # an empty place has no children: their base is -inf
    if end is not None:
        end = beam.scores + (end - base)
    if grown is not None:
        grown = (grown - base[..., None]).add_(
            beam.scores[..., None]
        )  # in this order rounding never lets a child score more
    return end, grown, children


def step(trie: Trie, beam: Beams, scores_BK: Tensor, parents_BK: Tensor, nodes_BK: Tensor, depth: int) -> Beams:
    """The children `nodes_BK` of the beams `parents_BK` as the beams of the next level."""
    nodes = nodes_BK.masked_fill(scores_BK == MINUS, 0)
    tokens = beam.tokens.gather(1, parents_BK[..., None].expand(-1, -1, beam.tokens.shape[2])).clone()
    tokens[..., depth] = trie.tokens_into(nodes)
    return Beams(scores_BK, nodes, tokens)


def finish(pool: Hypotheses, ended_BK: Tensor, beam: Beams, trie: Trie) -> Hypotheses:
    """Let the identifiers that end in the beams' nodes compete for the places of the pool; `bound` covers those that lose."""
    places = pool.scores.shape[1]
    scores, nodes = torch.cat([pool.scores, ended_BK], 1), torch.cat([pool.nodes, beam.nodes], 1)
    tokens = torch.cat([pool.tokens, beam.tokens], 1)
    by_image = trie.leaf_order(nodes).masked_fill(scores == MINUS, trie.leaves).sort(dim=1, stable=True).indices
    order = by_image.gather(1, first_of(scores.gather(1, by_image), places))
    bound = torch.maximum(pool.bound, scores.scatter(1, order, MINUS).amax(1))
    scores = scores.gather(1, order)
    nodes = nodes.gather(1, order).masked_fill(scores == MINUS, -1)
    tokens = tokens.gather(1, order[..., None].expand(-1, -1, tokens.shape[2]))
    return replace(pool, nodes=nodes, scores=scores, tokens=tokens, bound=bound)
