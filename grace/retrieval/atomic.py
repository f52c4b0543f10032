"""Atomic retrieval: one forward pass a query, one fp32 product with the class matrix, top-k over the gallery's classes.

Called by the stage `retrieve`; reads nothing and writes nothing itself.

Legend: B queries, H width of the language model, D width of the class matrix, K trained classes, G images of the gallery.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from grace.config import Retrieve
from grace.identifiers.base import IdentifierTables
from grace.model.atomic_head import AtomicHead
from grace.retrieval.generative import batches_of_one_length
from grace.trie import Trie

# Scores held at a time by default, 64 MB: galleries of millions are walked in chunks of classes.
SCORES_AT_ONCE = 2**24


class ClassRanking:
    """The best gallery classes of queries, without ever holding the scores of all classes."""

    def __init__(self, head: AtomicHead, rows_G: Tensor, scores_at_once: int = SCORES_AT_ONCE) -> None:
        """`rows_G`: the gallery's rows of the class matrix, int64 [G]; all trained classes share the softmax."""
        self.head, self.scores_at_once = head, scores_at_once
        self.unit_KD = F.normalize(head.class_matrix(), dim=-1)
        self.sorted_G, self.places_G = rows_G.sort()
        self.sorted_on_host = self.sorted_G.cpu()

    def best(self, hidden_BH: Tensor, depth: int) -> tuple[Tensor, Tensor]:
        """Log-probabilities, nats, and places in the gallery of the best `depth` classes: f32 and int64 [B, depth]."""
        queries_BD = self.head.scale() * self.head.queries(hidden_BH)
        classes, step = len(self.unit_KD), max(1, self.scores_at_once // len(queries_BD))
        mass = queries_BD.new_full((len(queries_BD),), float("-inf"))
        scores = queries_BD.new_empty(len(queries_BD), 0)
        places = torch.empty_like(scores, dtype=torch.long)
        for start in range(0, classes, step):
            logits = queries_BD @ self.unit_KD[start : start + step].T
            mass = torch.logaddexp(mass, logits.logsumexp(-1))
            low, high = torch.searchsorted(self.sorted_on_host, torch.tensor([start, start + step])).tolist()
            if low == high:
                continue
            here, chosen = logits[:, self.sorted_G[low:high] - start].topk(min(depth, high - low), dim=1)
            both = torch.cat([scores, here], 1)
            scores, order = both.topk(min(depth, both.shape[1]), dim=1)
            places = torch.cat([places, self.places_G[low:high][chosen]], 1).gather(1, order)
        return scores - mass[:, None], places


@torch.inference_mode()
def atomic_search(
    model, prompt_ids: list[list[int]], media: Tensor, trie: Trie, assigned: IdentifierTables, settings: Retrieve,
    query_ids: list[str],
) -> tuple[dict[str, list[tuple[str, float]]], dict, dict[str, int]]:  # fmt: skip
    """Run lines by query id, the counts, and the certified ranks by query id (all of them).

    Scores are log-probabilities of the softmax over all trained classes, nats.
    """
    gallery = assigned.of_split("test")
    rows = torch.tensor([int(tokens[0]) for tokens in gallery["tokens"]], device=media.device)
    images = gallery["image_id"].tolist()
    depth = min(settings.depth, len(images))
    ranking = ClassRanking(model.atomic_head, rows)
    out: dict[int, list[tuple[str, float]]] = {}
    for chosen in tqdm(
        batches_of_one_length(prompt_ids, settings.batch_size), desc="retrieve", unit="batch", disable=None
    ):
        prompts = torch.tensor([prompt_ids[i] for i in chosen], device=media.device)
        hidden, _ = model.hidden_states(prompts, media)
        scores, places = ranking.best(hidden[:, -1], depth)
        for query, best, where in zip(chosen, scores.tolist(), places.tolist(), strict=True):
            out[query] = [(images[place], score) for score, place in zip(best, where, strict=True)]
    # The class of every answer is looked up in the trie, which was built apart from the rows above.
    own = {image: trie.walk([int(row)]) for image, row in zip(images, rows.tolist(), strict=True)}
    valid = {image: node is not None and image in trie.images_at(node) for image, node in own.items()}
    hypotheses = sum(map(len, out.values()))
    counts = {
        "hypotheses": hypotheses,
        "invalid": sum(not valid[image] for answers in out.values() for image, _ in answers),
        "duplicates": sum(len(answers) - len({image for image, _ in answers}) for answers in out.values()),
        "failed_queries": sum(not answers for answers in out.values()),
        "model_rows_per_query": 1.0,
        "certified": 1.0,  # every class is scored
        "certified_ranks": [1.0] * depth,
    }
    counts["valid_rate"] = 1 - counts["invalid"] / hypotheses if hypotheses else 0.0
    by_query = {query_ids[i]: len(out[i]) for i in range(len(prompt_ids))}
    return {query_ids[i]: out[i] for i in range(len(prompt_ids))}, counts, by_query
