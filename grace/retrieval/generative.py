"""From captions to ranked images through generated identifiers: batched searches, leaves to images, counts.

Called by the stage `retrieve`; reads and writes no files itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from grace.identifiers.base import IdentifierTables
from grace.identifiers.owners import Owners
from grace.identifiers.tree import Trie
from grace.model.batches import batches_of_one_length
from grace.retrieval.beam_search import beam_search
from grace.retrieval.best_first import Limits, exact_search
from grace.retrieval.found import Counts, Found, Ranking, certified_shares
from grace.retrieval.hypotheses import Hypotheses, Rule
from grace.retrieval.ties import certified_ranks, ranked
from grace.system.errors import GraceError
from grace.system.progress import progress
from grace.workflow.config import Retrieve


def generative_search(
    model, prompt_ids: list[list[int]], media: Tensor, trie: Trie, assigned: IdentifierTables, settings: Retrieve,
    query_ids: list[str],
) -> Found:  # fmt: skip
    """The images of every query, how many of them are certified, and the counts.

    `prompt_ids` are the prompts of `query_ids`, one list of token ids each. A rank is certified if no unscored
    identifier can change it or any rank above it, and its score is not tied with the next. `counts.certified` is the share of
    queries with all requested ranks certified (`depth`, or the size of the gallery if that is smaller).

    If an image has several identifiers, or `depth` is larger, the search uses more beams than `settings.beams`: as many as it
    needs to find `depth` images (`counts.beams_used`), and correspondingly fewer queries at a time.

    Queries of one length are decoded together, so nothing is padded and a query's scores do not depend on its neighbours'
    length. An image's score is the best of its identifiers' (`max`) or their sum in probability (`logsumexp`).
    """
    if trie.end is None:
        raise GraceError("the trie's identifiers have no end token: they are those of atomic; run trie again")
    owners = Owners(assigned.of_split("test"))
    most = int(np.bincount(trie.leaf_images.cpu().numpy()).max())
    rule = Rule(settings.normalisation, assigned.levels)
    # Enough identifiers to cover at least `depth` different images, whatever `settings.beams` is.
    beams = places = max(settings.beams, settings.depth) * most
    at_once = max(
        1, settings.batch_size * settings.beams // beams
    )  # so that a pass has as many rows as the settings say
    depth = min(settings.depth, len(trie.image_ids))
    found: dict[int, Ranking] = {}
    search = beam_search
    if settings.search == "exact":
        limits = Limits(settings.exact_prefixes, settings.exact_memory_mb * 2**20)
        beams, at_once = settings.beams, settings.batch_size
        search = partial(exact_search, limits=limits)
    # With log-sum-exp, an unscored identifier could still add to the score of an image that has several.
    certifiable = settings.merge == "max" or most == 1
    tally = Tally()
    certified, rows = np.zeros(len(prompt_ids), dtype=np.int64), 0
    for chosen in progress(batches_of_one_length(prompt_ids, at_once), desc="retrieve", unit="batches"):
        prompts = torch.tensor([prompt_ids[i] for i in chosen], device=media.device)
        best = search(model, prompts, media, trie, beams, places, rule, settings.leaves_at_once)
        rows += best.model_rows
        answered = _rank(best, trie, owners, settings, tally)
        for query, answers, bound in zip(chosen, answered, best.bound.tolist(), strict=True):
            found[query] = answers[: settings.depth]
            certified[query] = min(certified_ranks(answers, bound), len(found[query])) if certifiable else 0
    share, shares = certified_shares(certified, depth)
    counts = Counts(
        **vars(tally),
        model_rows_per_query=rows / len(prompt_ids),
        certified=share,
        certified_ranks=shares,
        beams_used=beams,
    )
    return Found(
        {query_id: found[row] for row, query_id in enumerate(query_ids)},
        dict(zip(query_ids, certified.tolist(), strict=True)),
        counts,
    )


@dataclass
class Tally:
    """Counts collected while hypotheses are mapped to images; see `Counts`."""

    hypotheses: int = 0
    invalid: int = 0
    duplicates: int = 0
    failed_queries: int = 0


def _rank(best: Hypotheses, trie: Trie, owners: Owners, settings: Retrieve, tally: Tally) -> list[Ranking]:
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
            tally.hypotheses += 1
            here = set(trie.images_at_leaf(leaf))
            if owners[[token for token in path if token >= 0]] != here:
                tally.invalid += 1
                continue
            for image in sorted(here):
                if image in images:
                    tally.duplicates += 1
                    images[image] = (
                        max(images[image], score)
                        if settings.merge == "max"
                        else float(np.logaddexp(images[image], score))
                    )
                else:
                    images[image] = score
        tally.failed_queries += not images
        out.append(ranked(images))
    return out
