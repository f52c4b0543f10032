"""Part 2, the selection step: from logits to the beams of the next level, under the constraint of the trie.

    python -m benchmarks.decoding --output FILE --parts selection

Hugging Face's side is its own code: log_softmax, `PrefixConstrainedLogitsProcessor` with dictionaries, marisa-trie or our
trie, the top-k over beams x vocabulary, and the choice of running beams, as called by `generate`. Ours is `expand`, the top-k
over children and `step` of `grace.retrieval.beam_search`. Random logits and the beams (distinct prefixes of identifiers) are
given and the same for all. A row is for one trie and vocabulary; `step_s` has the times of every depth from 1 on (at depth 0
there is one beam), `whole_s` their sums, that is, all steps of a search.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.generation.logits_process import LogitsProcessorList, PrefixConstrainedLogitsProcessor
from transformers.generation.utils import GenerationMixin

from benchmarks.decoding.dictionaries import Dictionaries
from benchmarks.decoding.identifier_sets import SHAPES, identifier_set
from benchmarks.decoding.level_order import LevelOrder
from benchmarks.decoding.marisa import Marisa
from benchmarks.decoding.timing import call, median, timed
from grace.identifiers.tree import Trie
from grace.retrieval.beam_search import expand, step
from grace.retrieval.hypotheses import FULL, Beams

STRUCTURES = {kind.name: kind for kind in (Dictionaries, Marisa, LevelOrder)}
OURS = "grace"


def run(sizes: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per trie, vocabulary and selection method."""
    rows = []
    for shape, vocabularies in sizes["settings"].items():
        for number in sizes["identifiers"]:
            found = []
            for name in STRUCTURES:
                found += call(measure, name, shape, number, vocabularies, sizes, fresh=sizes["fresh"])
            for vocabulary in vocabularies:
                rows += _compared([row for row in found if row["vocabulary"] == vocabulary])
    return rows


def _compared(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of one trie and vocabulary, each with whether all methods chose the same."""
    chosen = [row.pop("chosen") for row in rows]
    same = all(_alike(chosen[0], other) for other in chosen[1:])
    for row in rows:
        print(f"  {row['shape']} {row['identifiers']:>10,} vocabulary {row['vocabulary']:>6,} {row['way']:<31}"
              f"{1000 * median(row['whole_s']) / len(row['step_s']):9.2f} ms per step", flush=True)  # fmt: skip
    return [{**row, "same": same} for row in rows]


def measure(name: str, shape: str, number: int, vocabularies: list[int], sizes: dict[str, Any]) -> list[dict[str, Any]]:
    """The selection methods that use one trie; `chosen` contains the choices at every depth."""
    tokens_SL = identifier_set(shape, number)
    with _without_garbage_collection():
        built = STRUCTURES[name].build(tokens_SL)[0]
    beams = [beams_at(tokens_SL, depth, sizes) for depth in range(1, SHAPES[shape].depth)]
    out = []
    for vocabulary in vocabularies:
        torch.manual_seed(0)
        logits_BKV = torch.randn(sizes["queries"], sizes["beams"], vocabulary) * 2
        ways = {
            f"Hugging Face over {name}": (
                sizes["peer_repeats"],
                [hugging_face(built.allowed, *here, logits_BKV, vocabulary - 1) for here in beams],
            )
        }
        if name == LevelOrder.name:
            steps = [ours(built.tree, *here, logits_BKV, depth) for depth, here in enumerate(beams, start=1)]
            ways[OURS] = sizes["repeats"], steps
        for way, (repeats, steps) in ways.items():
            step_s = [timed(action, repeats, warm=1) for action in steps]
            out.append(
                {
                    "way": way, "shape": shape, "identifiers": number, "vocabulary": vocabulary,
                    "step_s": step_s, "whole_s": [sum(times) for times in zip(*step_s, strict=True)],
                    "chosen": [[part.tolist() for part in action()] for action in steps],
                }
            )  # fmt: skip
    return out


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Build without garbage collection, and freeze the result: scanning millions of dictionaries takes seconds."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def beams_at(tokens_SL: np.ndarray, depth: int, sizes: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Prefixes of `depth` tokens, int64 [B, K, depth], distinct within a query if possible; f32 scores [B, K]."""
    rng = np.random.default_rng(depth)
    some = tokens_SL[rng.integers(0, len(tokens_SL), 5_000), :depth]
    different = sorted(set(map(tuple, some.tolist())))
    if len(different) < sizes["beams"]:
        raise ValueError(f"the trie has only {len(different)} prefixes of {depth} tokens for {sizes['beams']} beams")
    picked = [rng.choice(len(different), sizes["beams"], replace=False) for _ in range(sizes["queries"])]
    scores = -np.sort(rng.exponential(3.0, (sizes["queries"], sizes["beams"])), axis=1)
    return torch.tensor(np.array(different)[np.array(picked)]), torch.tensor(scores, dtype=torch.float32)


def hugging_face(
    allowed: Callable[[list[int]], list[int]], prefixes_BKd: Tensor, scores_BK: Tensor, logits_BKV: Tensor, end: int
) -> Callable[[], tuple[Tensor, Tensor, Tensor]]:
    """The step of `GenerationMixin._beam_search` between two forward passes; returns parents, tokens and scores."""
    batch, beams, vocabulary = logits_BKV.shape
    prompt = 16  # tokens before the identifier
    sequences = torch.zeros(batch, beams, prompt + prefixes_BKd.shape[2] + 2, dtype=torch.long)
    length = prompt + prefixes_BKd.shape[2]
    sequences[:, :, prompt:length] = prefixes_BKd
    processors = LogitsProcessorList(
        [PrefixConstrainedLogitsProcessor(lambda _, sent: allowed(sent[prompt:].tolist()) or [end], beams)]
    )
    generation = GenerationMixin()
    indices = torch.zeros(batch, beams, sequences.shape[2] - prompt, dtype=torch.int32)

    def select() -> tuple[Tensor, Tensor, Tensor]:
        flat = sequences[:, :, :length].flatten(0, 1)
        logits = logits_BKV.flatten(0, 1).to(copy=True, dtype=torch.float32)
        log_probs = processors(flat, torch.nn.functional.log_softmax(logits, dim=-1))
        total = log_probs.view(batch, beams, vocabulary) + scores_BK[:, :, None]
        best, longer, origin = generation._get_top_k_continuations(
            accumulated_log_probs=total.view(batch, -1), running_sequences=sequences, running_beam_indices=indices,
            cur_len=length, decoder_prompt_len=prompt, do_sample=False, beams_to_keep=2 * beams, num_beams=beams,
            vocab_size=vocabulary, batch_size=batch,
        )  # fmt: skip
        longer, best, origin = generation._get_running_beams_for_next_iteration(
            topk_log_probs=best, topk_running_sequences=longer, topk_running_beam_indices=origin,
            next_token_hits_stopping_criteria=longer[:, :, length] == end, num_beams=beams,
        )  # fmt: skip
        parents = origin[:, :, length - prompt].long() - torch.arange(batch)[:, None] * beams
        return parents, longer[:, :, length], best

    return select


def ours(
    tree: Trie, prefixes_BKd: Tensor, scores_BK: Tensor, logits_BKV: Tensor, depth: int
) -> Callable[[], tuple[Tensor, Tensor, Tensor]]:
    """The step of `grace.retrieval.beam_search.descend` between two forward passes; returns parents, tokens and scores."""
    batch, beams = scores_BK.shape
    nodes = torch.tensor([[tree.walk(prefix) for prefix in query] for query in prefixes_BKd.tolist()])
    tokens = torch.full((batch, beams, tree.depth), -1)
    tokens[..., :depth] = prefixes_BKd
    beam = Beams(scores_BK, nodes, tokens)

    def select() -> tuple[Tensor, Tensor, Tensor]:
        _, grown, children = expand(tree, beam, logits_BKV, depth, FULL)
        flat, below = grown.flatten(1), children.flatten(1)
        width = min(beams, flat.shape[1])
        best, chosen = flat.topk(min(width + 1, flat.shape[1]), dim=1)
        scores, chosen = best[:, :width], chosen[:, :width]
        parents = chosen // children.shape[2]
        after = step(tree, beam, scores, parents, below.gather(1, chosen), depth)
        return parents, after.tokens[..., depth], after.scores

    return select


def _alike(one: list, other: list) -> bool:
    """Whether two methods chose the same beams with the same scores (to 1e-4) at every depth."""
    for (parents, tokens, scores), (parents2, tokens2, scores2) in zip(one, other, strict=True):
        if parents != parents2 or tokens != tokens2 or not np.allclose(scores, scores2, atol=1e-4):
            return False
    return True
