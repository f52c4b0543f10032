"""Part 3, whole searches: from prompts to the ten best identifiers, compared with transformers' cached and uncached `generate`.

    python -m benchmarks.decoding --output FILE --parts end_to_end

All use the same Flamingo, weights, prompts, trie and beams; the ten identifiers of every query must be the same in the same
order (`same_share` is the share of queries for which they are, for our search the minimum over its competitors; `score_gap`
is the largest difference between scores, if requested). `grace` is plain beam search; the next row is the pipeline's default
(the last leaves scored in one pass), whose answers are at least as good and are not compared. `search: exact` is left out:
random weights have no preferences, so a provably best answer would require reading almost everything.
"""

from __future__ import annotations

import resource
from typing import Any

from torch import Tensor

from benchmarks.decoding import models
from benchmarks.decoding.dictionaries import Dictionaries
from benchmarks.decoding.hugging_face import generate
from benchmarks.decoding.identifier_sets import SHAPES, identifier_set
from benchmarks.decoding.level_order import LevelOrder
from benchmarks.decoding.timing import call, median, timed
from grace.retrieval.beam_search import beam_search

LEAVES_AT_ONCE = 20
"""The pipeline's default, `retrieve.leaves_at_once`."""


PEERS = {
    "Hugging Face without cache": (False, False),
    "Hugging Face without cache, image shared": (False, True),
    "Hugging Face with cache": (True, False),
    "Hugging Face with cache, image shared": (True, True),
}
"""Whether keys and values of tokens are cached, and whether all beams share the image (see `hugging_face`)."""


def run(sizes: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per model and search."""
    rows = []
    for name, settings in sizes["models"].items():
        here = call(measure, name, settings, sizes, fresh=sizes["fresh"])
        rows += here
        for row in here:
            told = "" if row["same_share"] is None else f"  same answers {100 * row['same_share']:.0f} %"
            print(f"  {name:<6} {row['queries']:>3} queries  {row['search']:<28}"
                  f"{1000 * median(row['seconds']) / row['queries']:10.1f} ms per query{told}", flush=True)  # fmt: skip
    return rows


def measure(name: str, settings: dict[str, Any], sizes: dict[str, Any]) -> list[dict[str, Any]]:
    """All searches with one model."""
    shape, beams = sizes["shape"], sizes["beams"]
    depth = SHAPES[shape].depth
    model = models.make(settings)
    tokens_SL = identifier_set(shape, sizes["identifiers"])
    tree = LevelOrder.build(tokens_SL, model.vocabulary.end)[0].tree
    allowed = Dictionaries.build(tokens_SL)[0].allowed
    prompts = models.prompts(model, settings["queries"], sizes["prompt_tokens"])
    repeats = settings["repeats"]

    def search(leaves_at_once: int = 0):
        return beam_search(model.flamingo, prompts, model.media, tree, beams, beams, leaves_at_once=leaves_at_once)

    def transformers(cached: bool, share_image: bool, scores: bool = False):
        return generate(model, prompts, allowed, depth, beams, cached, scores, share_image)

    found = search()  # also warms up
    gap = None
    if settings["scores"]:
        gap = float((found.scores - transformers(True, False, scores=True)[1]).abs().max())
    shared = {
        "model": name, "parameters": model.parameters, "dtype": settings["dtype"], "vocabulary": settings["vocabulary"],
        "queries": len(prompts), "prompt_tokens": sizes["prompt_tokens"], "beams": beams, "shape": shape,
        "identifiers": sizes["identifiers"],
    }  # fmt: skip
    none = {"same_share": None, "score_gap": None}
    rows = []
    for peer, (cached, share_image) in PEERS.items():
        if (not cached and not settings["without_cache"]) or (share_image and not settings["image_shared"]):
            continue
        answers: list[Tensor] = []
        seconds = timed(lambda c=cached, s=share_image, a=answers: a.append(transformers(c, s)[0]), repeats)
        same = min(float((found.tokens == answer).all(-1).all(-1).float().mean()) for answer in answers)
        rows.append({**shared, "search": peer, "seconds": seconds, **none, "same_share": same})
    same = min(row["same_share"] for row in rows)
    seconds = timed(search, repeats)
    rows.append({**shared, "search": "grace", "seconds": seconds, "same_share": same, "score_gap": gap})
    at_once = timed(lambda: search(LEAVES_AT_ONCE), repeats)
    rows.append({**shared, "search": "grace, leaves at once", "seconds": at_once, **none})
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return [{**row, "peak_bytes": peak} for row in rows]
