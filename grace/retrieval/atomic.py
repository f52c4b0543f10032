"""Atomic retrieval: one forward pass per query, one fp32 product with the class matrix, top-k over the gallery's classes.

Called by the stage `retrieve`; reads and writes no files itself.

Legend: B queries, H width of the language model, D width of the class matrix, K trained classes, G images of the gallery.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from grace.identifiers.base import IdentifierTables, flatten
from grace.identifiers.tree import Trie
from grace.identifiers.tree.names import Names
from grace.model.atomic_head import AtomicHead
from grace.model.batches import batches_of_one_length
from grace.retrieval.found import Counts, Found, Ranking, certified_shares
from grace.retrieval.hypotheses import MINUS
from grace.retrieval.ties import certified_ranks, in_order, tie_groups
from grace.system.progress import progress
from grace.workflow.config import Retrieve

# Scores held at a time by default, 64 MB: galleries of millions are processed in chunks of classes.
SCORES_AT_ONCE = 2**24
BLOCK = 256
"""Scores per block; the best of each block is found first."""
SPARE = 16
"""Additional candidates at first, for ties at the cut."""


class ClassRanking:
    """Finds the best gallery classes of queries without holding the scores of all classes at once."""

    def __init__(
        self, head: AtomicHead, rows_G: Tensor, order_G: Tensor | None = None, scores_at_once: int | None = None
    ) -> None:
        """`rows_G`: the gallery's rows of the class matrix, int64 [G]; all trained classes share the softmax.

        `order_G`: the order of the gallery's images that breaks ties, 0 .. G - 1 in int64 [G], lower first (default: as given).
        """
        self.head, self.scores_at_once = head, scores_at_once or SCORES_AT_ONCE
        self.unit_KD = F.normalize(head.class_matrix(), dim=-1)
        self.rows_G = rows_G
        self.order_G = torch.arange(len(rows_G), device=rows_G.device) if order_G is None else order_G
        self.by_order_G = self.order_G.argsort()
        self.sorted_G, self.places_G = rows_G.sort()
        self.sorted_on_host = self.sorted_G.cpu().numpy()

    def best(self, hidden_BH: Tensor, depth: int) -> tuple[Tensor, Tensor]:
        """Log-probabilities, nats, and indices in the gallery of the best `depth` classes: f32 and int64 [B, depth].

        Tied scores are ordered before the cut and get the score of the best of them, because a product's last bits depend on the
        class's place in the matrix and on the batch. If all candidates from the cut on are tied, more candidates are taken.
        """
        scale, depth = self.head.scale(), min(depth, len(self.rows_G))
        queries_BD = scale * self.head.queries(hidden_BH)
        scores = queries_BD.new_empty(len(queries_BD), depth)
        places = torch.empty_like(scores, dtype=torch.long)
        undecided, width = torch.arange(len(queries_BD), device=scores.device), min(depth + SPARE, len(self.rows_G))
        while len(undecided):
            left = []
            for rows in undecided.split(max(1, self.scores_at_once // width)):
                logits, found, mass = self._candidates(queries_BD[rows], width)
                groups = tie_groups(logits, scale)
                leaders = torch.searchsorted(groups, groups[:, :depth].contiguous())
                scores[rows] = logits.gather(1, leaders) - mass[:, None]
                places[rows] = self.by_order_G[in_order(groups, self.order_G[found])[:, :depth]]
                if width < len(self.rows_G):
                    left.append(rows[groups[:, depth - 1] == groups[:, -1]])
            undecided, width = torch.cat([undecided[:0], *left]), min(8 * width, len(self.rows_G))
        return scores, places

    def _candidates(self, queries_BD: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (f32) and indices of the best `width` classes of the gallery, and the log-sum-exp over all classes, f32 [B]."""
        classes, step = len(self.unit_KD), max(1, self.scores_at_once // len(queries_BD))
        mass = queries_BD.new_empty(0)
        scores = queries_BD.new_empty(len(queries_BD), 0)
        places = torch.empty_like(scores, dtype=torch.long)
        for start in range(0, classes, step):
            logits = queries_BD @ self.unit_KD[start : start + step].T
            here = logits.logsumexp(-1)
            mass = torch.logaddexp(mass, here) if start else here
            low, high = np.searchsorted(self.sorted_on_host, (start, start + step))
            if low == high:
                continue
            first, last = self.sorted_on_host[low] - start, self.sorted_on_host[high - 1] - start
            in_one_piece = last - first == high - 1 - low  # a slice suffices if every class in it is of the gallery
            here = logits[:, first : last + 1] if in_one_piece else logits[:, self.sorted_G[low:high] - start]
            here, chosen = _top(here, min(width, high - low))
            where = self.places_G[low:high][chosen]
            if scores.shape[1]:
                here, where = torch.cat([scores, here], 1), torch.cat([places, where], 1)
                here, order = here.topk(min(width, here.shape[1]), dim=1)
                where = where.gather(1, order)
            scores, places = here, where
        return scores, places, mass


def _top(scores_BN: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """`topk` over many scores: the best `number` are in the `number` blocks with the highest maxima."""
    blocks = scores_BN.shape[1] // BLOCK
    if blocks <= 2 * number:
        return scores_BN.topk(number, dim=1)
    blocked = scores_BN[:, : blocks * BLOCK].unflatten(1, (blocks, BLOCK))
    chosen = blocked.amax(-1).topk(number, dim=1).indices
    within = blocked.gather(1, chosen[..., None].expand(-1, -1, BLOCK)).flatten(1)
    places = (chosen[..., None] * BLOCK + torch.arange(BLOCK, device=chosen.device)).flatten(1)
    rest = torch.arange(blocks * BLOCK, scores_BN.shape[1], device=chosen.device).expand(len(scores_BN), -1)
    scores, order = torch.cat([within, scores_BN[:, blocks * BLOCK :]], 1).topk(number, dim=1)
    return scores, torch.cat([places, rest], 1).gather(1, order)


@torch.inference_mode()
def atomic_search(
    model, prompt_ids: list[list[int]], media: Tensor, trie: Trie, assigned: IdentifierTables, settings: Retrieve,
    query_ids: list[str],
) -> Found:  # fmt: skip
    """The images of every query, the certified ranks (all except ties), and the counts; arguments as for `generative_search`.

    Scores are log-probabilities of the softmax over all trained classes, nats.
    """
    gallery = assigned.of_split("test")
    rows = torch.from_numpy(flatten(gallery["tokens"])[0]).to(media.device)
    images = gallery["image_id"].tolist()
    depth = min(settings.depth, len(images))
    ranking = ClassRanking(model.atomic_head, rows, torch.from_numpy(Names.of(images).ranks()).to(media.device))
    out: dict[int, Ranking] = {}
    returned: dict[int, int] = {}  # gallery index: how often
    certified = np.zeros(len(prompt_ids), dtype=np.int64)
    for chosen in progress(batches_of_one_length(prompt_ids, settings.batch_size), desc="retrieve", unit="batches"):
        prompts = torch.tensor([prompt_ids[i] for i in chosen], device=media.device)
        hidden, _ = model.hidden_states(prompts, media)
        scores, places = ranking.best(hidden[:, -1], depth + 1)  # one more, to tell whether the last is tied
        for query, best, where in zip(chosen, scores.tolist(), places.tolist(), strict=True):
            answers = [(images[place], score) for score, place in zip(best, where, strict=True)]
            out[query] = answers[:depth]
            certified[query] = min(certified_ranks(answers, MINUS), depth)
            for place in where[:depth]:
                returned[place] = returned.get(place, 0) + 1
    share, shares = certified_shares(certified, depth)
    counts = Counts(
        hypotheses=sum(map(len, out.values())),
        invalid=sum(returned[place] for place in _not_theirs(trie, rows, images, list(returned))),
        duplicates=sum(len(answers) - len({image for image, _ in answers}) for answers in out.values()),
        failed_queries=sum(not answers for answers in out.values()),
        model_rows_per_query=1.0,
        certified=share,
        certified_ranks=shares,
    )
    return Found(
        {query_id: out[row] for row, query_id in enumerate(query_ids)},
        dict(zip(query_ids, certified.tolist(), strict=True)),
        counts,
    )


def _not_theirs(trie: Trie, rows_G: Tensor, images: list[str], places: list[int]) -> list[int]:
    """The gallery indices whose class is not their image's in the trie, which is built independently of `rows_G`."""
    nodes = trie.find(rows_G[torch.tensor(places, dtype=torch.long, device=rows_G.device)][:, None])
    found = zip(places, nodes.tolist(), strict=True)
    return [place for place, node in found if node < 0 or images[place] not in trie.images_at(node)]
