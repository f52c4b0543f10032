"""From captions to ranked images by generated identifiers: batches of searches, leaves to images, counts.

Called by the stage `retrieve`; reads nothing and writes nothing itself.
"""

from __future__ import annotations

from collections import defaultdict
from functools import partial

import numpy as np
import torch
from torch import Tensor

from grace.identifiers.base import IdentifierTables
from grace.identifiers.owners import Owners
from grace.identifiers.tree import Trie
from grace.retrieval.beam_search import beam_search
from grace.retrieval.best_first import Limits, exact_search
from grace.retrieval.hypotheses import Hypotheses, Rule
from grace.retrieval.ties import certified_ranks, ranked
from grace.system.errors import GraceError
from grace.system.progress import progress
from grace.workflow.config import Retrieve


def generative_search(
    model, prompt_ids: list[list[int]], media: Tensor, trie: Trie, assigned: IdentifierTables, settings: Retrieve,
    query_ids: list[str],
) -> tuple[dict[str, list[tuple[str, float]]], dict, dict[str, int]]:  # fmt: skip
    """Run lines by query id; the counts: hypotheses, model rows a query, certified ranks; certified ranks by query id.

    A rank is certified when no identifier that was not scored can change it or any rank above it, and its score is not
    tied with the next. `certified` is the share
    of queries with all ranks wanted and certified (`depth`, or as many as the gallery has images); `certified_ranks[r - 1]`
    that of queries with r certified ranks or more.

    Where an image has several identifiers, or `depth` is larger, the search takes more beams than `settings.beams`: as
    many as it needs to find `depth` images (`counts["beams_used"]`), and as many fewer queries at a time.

    Queries of one length are decoded together, so nothing is padded and a query's scores do not depend on its neighbours'
    length. An image's score is the best of its identifiers' (`max`) or their sum in probability (`logsumexp`).
    """
    if trie.end is None:
        raise GraceError("the trie's identifiers have no end token: they are those of atomic; run trie again")
    owners = Owners(assigned.of_split("test"))
    most = int(np.bincount(trie.leaf_images.cpu().numpy()).max())
    rule = Rule(settings.normalisation, assigned.levels)
    # So many identifiers that they are of `depth` different images at least, whatever beams the settings name.
    beams = places = max(settings.beams, settings.depth) * most
    at_once = max(
        1, settings.batch_size * settings.beams // beams
    )  # so that a pass has the rows that the settings name
    depth = min(settings.depth, len(trie.image_ids))
    found: dict[int, list[tuple[str, float]]] = {}
    search = beam_search
    if settings.search == "exact":
        limits = Limits(settings.exact_prefixes, settings.exact_memory_mb * 2**20)
        beams, at_once = settings.beams, settings.batch_size
        search = partial(exact_search, limits=limits)
    # With log-sum-exp an identifier that was not scored could still add to an image that has several.
    certifiable = settings.merge == "max" or most == 1
    counts = {"beams_used": beams, "hypotheses": 0, "invalid": 0, "duplicates": 0, "failed_queries": 0}
    certified, rows = np.zeros(len(prompt_ids), dtype=np.int64), 0
    for chosen in progress(batches_of_one_length(prompt_ids, at_once), desc="retrieve", unit="batches"):
        prompts = torch.tensor([prompt_ids[i] for i in chosen], device=media.device)
        best = search(model, prompts, media, trie, beams, places, rule, settings.leaves_at_once)
        rows += best.model_rows
        answered = _rank(best, trie, owners, settings, counts)
        for query, answers, bound in zip(chosen, answered, best.bound.tolist(), strict=True):
            found[query] = answers[: settings.depth]
            certified[query] = min(certified_ranks(answers, bound), len(found[query])) if certifiable else 0
    counts["valid_rate"] = 1 - counts["invalid"] / counts["hypotheses"] if counts["hypotheses"] else 0.0
    counts["model_rows_per_query"] = rows / len(prompt_ids)
    counts["certified"] = float((certified >= depth).mean())
    counts["certified_ranks"] = [float((certified >= rank).mean()) for rank in range(1, depth + 1)]
    by_query = {query_id: int(number) for query_id, number in zip(query_ids, certified, strict=True)}
    return {query_ids[i]: found[i] for i in range(len(prompt_ids))}, counts, by_query


def batches_of_one_length(prompt_ids: list[list[int]], size: int) -> list[list[int]]:
    """Indices of queries in batches of one length each."""
    by_length = defaultdict(list)
    for index, ids in enumerate(prompt_ids):
        by_length[len(ids)].append(index)
    return [
        group[start : start + size] for _, group in sorted(by_length.items()) for start in range(0, len(group), size)
    ]


def _rank(
    best: Hypotheses, trie: Trie, owners: Owners, settings: Retrieve, counts: dict
) -> list[list[tuple[str, float]]]:
    """The images of every query, best first, tied ones by image id.

    Every hypothesis is checked against the identifier table, not against the trie.
    """
    out = []
    numbers = trie.leaf_numbers(best.nodes.clamp(min=0)).masked_fill(best.nodes < 0, -1)
    for leaves, scores, tokens in zip(numbers.tolist(), best.scores.tolist(), best.tokens.tolist(), strict=True):
        images: dict[str, float] = {}
        for leaf, score, path in zip(leaves, scores, tokens, strict=True):
            if leaf < 0:
                continue
            counts["hypotheses"] += 1
            here = set(trie.images_at_leaf(leaf))
            if owners[[token for token in path if token >= 0]] != here:
                counts["invalid"] += 1
                continue
            for image in sorted(here):
                if image in images:
                    counts["duplicates"] += 1
                    images[image] = (
                        max(images[image], score)
                        if settings.merge == "max"
                        else float(np.logaddexp(images[image], score))
                    )
                else:
                    images[image] = score
        counts["failed_queries"] += not images
        out.append(ranked(images))
    return out
