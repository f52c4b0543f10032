"""Trie-constrained beam search against transformers' `generate` with `prefix_allowed_tokens_fn`, as the published system runs it.

216 random queries: for each of OPT, MPT and Llama twelve models, each with weights and a trie of its own and six captions of
random tokens. Both sides have ten beams and return ten identifiers; `generate` has no length penalty.

Where identifiers have different lengths, `generate` drops an identifier that ends at a level where ten other prefixes score
more, even if all of them come to nothing; the search here keeps it. So there the answers are those of `generate` and such
identifiers, in the order of their scores; the test rebuilds which ones those are from the scores of every prefix.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from grace.identifiers.base import read_tokenizer
from grace.identifiers.tree import Trie
from grace.model.flamingo import GraceFlamingo, build
from grace.model.prompts import Prompts
from grace.retrieval.beam_search import beam_search
from grace.retrieval.hypotheses import FULL, Rule
from grace.workflow.config import Flamingo, Retrieve, ScratchLanguageModel

BEAMS, QUERIES, MODELS = 10, 6, 12
Answers = list[tuple[tuple[int, ...], float]]


class Case:
    """A model, a trie and captions, all random."""

    def __init__(self, family: str, seed: int, tokenizer, lengths: tuple[int, int]) -> None:
        rng = np.random.default_rng([seed, *lengths])
        self.prompts = Prompts(tokenizer)
        small = ScratchLanguageModel(architecture=family, width=32, layers=2, heads=2, max_length=96)
        shape = Flamingo(scratch=small, perceiver_latents=4, cross_attention_every=1, seed=seed, gate=0.5)
        self.model = build(shape, tokenizer, visual_width=16).eval()
        with torch.no_grad():  # sharp enough that the order of the scores is decided
            for parameter in self.model.lang_encoder.parameters():
                parameter.mul_(2.0)
        alphabet = rng.choice(len(tokenizer) - 3, size=int(rng.integers(3, 12)), replace=False)
        number = int(rng.integers(30, 120))
        sizes = rng.integers(lengths[0], lengths[1] + 1, size=number)
        self.bodies = sorted({tuple(map(int, rng.choice(alphabet, size=size))) for size in sizes})
        names = [str(row) for row in range(len(self.bodies))]
        self.trie = Trie.build(self.bodies, range(len(names)), names, self.prompts.end)
        start, end = self.prompts.retrieve([""])[0][:-2], self.prompts.retrieve([""])[0][-2:]
        captions = rng.integers(0, len(tokenizer) - 3, size=(QUERIES, int(rng.integers(3, 15))))
        self.queries = torch.tensor([[*start, *caption, *end] for caption in captions.tolist()])
        generator = torch.Generator().manual_seed(seed)
        self.media = self.model.resample(torch.randn(1, 5, 16, generator=generator))

    def searched(self, rule: Rule = FULL, leaves_at_once: int = 0) -> list[Answers]:
        found = beam_search(
            self.model, self.queries, self.media, self.trie, BEAMS, BEAMS, rule, leaves_at_once=leaves_at_once
        )
        return [
            [
                (tuple(token for token in path if token >= 0), score)
                for node, score, path in zip(nodes, scores, paths, strict=True)
                if node >= 0
            ]
            for nodes, scores, paths in zip(
                found.nodes.tolist(), found.scores.tolist(), found.tokens.tolist(), strict=True
            )
        ]

    def generated(self, length_penalty: float = 0.0, use_cache: bool = True) -> list[Answers]:
        return generate(self.model, self.queries, self.media, self.bodies, self.prompts.end, length_penalty, use_cache)

    def scored(self, query: int) -> dict[tuple[int, ...], float]:
        """The score of every prefix and of every closed identifier, by brute force: one forward pass each, no cache."""
        prompt, end, out = self.queries[query].tolist(), self.prompts.end, {(): 0.0}
        for body in self.bodies:
            closed = (*body, end)
            hidden, _ = self.model.hidden_states(torch.tensor([[*prompt, *body]]), self.media)
            gains = self.model.head(hidden[0, len(prompt) - 1 :]).float().log_softmax(-1)
            sums = gains[torch.arange(len(closed)), closed].cumsum(0).tolist()
            out |= {closed[: place + 1]: score for place, score in enumerate(sums)}
        return out

    def kept_here_alone(self, scores: dict[tuple[int, ...], float]) -> Answers:
        """Identifiers that a beam reaches and that `generate` drops: ten candidates of their level score more."""
        end, beams, out = self.prompts.end, [()], []
        while beams:
            here = [closed for closed in scores if closed[:-1] in beams and closed]
            here.sort(key=lambda prefix: -scores[prefix])
            out += [(prefix[:-1], scores[prefix]) for prefix in here[BEAMS:] if prefix[-1] == end]
            beams = [prefix for prefix in here if prefix[-1] != end][:BEAMS]
        return out


def generate(
    model: GraceFlamingo, queries: torch.Tensor, media: torch.Tensor, bodies: list[tuple[int, ...]], end: int,
    length_penalty: float, use_cache: bool,
) -> list[Answers]:  # fmt: skip
    """The answers of transformers' beam search, constrained by nested dictionaries."""
    root: dict = {}
    for body in bodies:
        node = root
        for token in (*body, end):
            node = node.setdefault(token, {})
    length = queries.shape[1]

    def allowed(_: int, ids: torch.Tensor) -> list[int]:
        node = root
        for token in ids[length:].tolist():
            node = node.get(token, {})
        return list(node) or [end]  # a place that holds no hypothesis: its score is -inf and stays so

    words = model.lang_encoder
    words._use_cached_vision_x = True
    for layer in words._get_decoder_layers():
        layer.condition_vis_x(media.expand(len(queries) * BEAMS, -1, -1, -1))
    try:
        out = words.generate(
            input_ids=queries, attention_mask=torch.ones_like(queries), num_beams=BEAMS, num_return_sequences=BEAMS,
            max_new_tokens=max(map(len, bodies)) + 1, length_penalty=length_penalty, early_stopping="never",
            eos_token_id=end, pad_token_id=end, do_sample=False, use_cache=use_cache, prefix_allowed_tokens_fn=allowed,
            return_dict_in_generate=True, output_scores=True,
        )  # fmt: skip
    finally:
        words.clear_conditioned_layers()
        words._use_cached_vision_x = False
    answers: list[Answers] = [[] for _ in queries]
    for row, (ids, score) in enumerate(
        zip(out.sequences[:, length:].tolist(), out.sequences_scores.tolist(), strict=True)
    ):
        if score > -1e6 and end in ids:  # -1e9 stands for no hypothesis
            answers[row // BEAMS].append((tuple(ids[: ids.index(end)]), score))
    return answers


def agree(found: Answers, wanted: Answers) -> bool:
    """The same identifiers in the same order, with scores within 1e-4; neighbours that tie within 1e-4 may change places."""
    if len(found) != len(wanted):
        return False
    theirs = dict(wanted)
    return all(
        path in theirs and abs(theirs[path] - score) < 1e-4 and abs(score - other) < 1e-4
        for (path, score), (_, other) in zip(found, wanted, strict=True)
    )


@torch.inference_mode()
@pytest.mark.parametrize("family", ["opt", "mpt", "llama"])
def test_the_same_top_ten_as_generate(family: str, tokenizer_folder) -> None:
    """72 queries a family: identifiers, order and scores, with and without the cache of `generate`."""
    tokenizer, compared, renormalised = read_tokenizer(tokenizer_folder), 0, 0
    for seed in range(MODELS):
        case = Case(family, seed, tokenizer, (4, 4))
        wanted, found = case.generated(use_cache=seed % 4 > 0), case.searched()
        at_once = case.searched(leaves_at_once=40)
        # a length penalty scales the sums, and renormalised scores prefer other prefixes: neither may pass for the same
        penalised, other = case.generated(length_penalty=-2.0), case.searched(Rule("children"))
        for query in range(QUERIES):
            assert len(wanted[query]) == BEAMS
            assert agree(found[query], wanted[query])
            # scoring the last leaves in one pass prunes less: no rank scores less than that of `generate`
            pairs = zip(at_once[query], wanted[query], strict=True)
            assert all(mine >= theirs - 1e-4 for (_, mine), (_, theirs) in pairs)
            assert not agree(found[query], penalised[query])
            assert not agree(found[query][:-2] + found[query][:-3:-1], wanted[query])
            renormalised += {path for path, _ in other[query]} != {path for path, _ in wanted[query]}
            compared += 1
    assert compared == 72
    assert renormalised > compared / 2, "the order of the models' scores hardly matters: the comparison could not fail"


@torch.inference_mode()
@pytest.mark.parametrize("family", ["opt", "mpt", "llama"])
def test_identifiers_of_different_lengths(family: str, tokenizer_folder) -> None:
    """The answers of `generate` and the identifiers that it drops, best first."""
    tokenizer, dropped = read_tokenizer(tokenizer_folder), 0
    for seed in range(2):
        case = Case(family, seed, tokenizer, (1, 5))
        wanted, found = case.generated(), case.searched()
        for query in range(QUERIES):
            more = {**dict(case.kept_here_alone(case.scored(query))), **dict(wanted[query])}
            ranked = sorted(more.items(), key=lambda pair: -pair[1])[:BEAMS]
            assert agree(found[query], ranked)
            dropped += not agree(found[query], wanted[query])
    assert dropped > 0, "nothing was dropped: the difference was not tested"


@torch.inference_mode()
def test_at_the_default_settings_some_answers_are_better_than_those_of_generate(tokenizer_folder) -> None:
    """Scoring the last leaves in one pass prunes less: the answers may be others, and no rank scores less."""
    tokenizer, differ, compared = read_tokenizer(tokenizer_folder), 0, 0
    for seed in range(MODELS):
        case = Case("opt", seed, tokenizer, (4, 4))
        pairs = zip(case.searched(leaves_at_once=Retrieve().leaves_at_once), case.generated(), strict=True)
        for found, wanted in pairs:
            compared += 1
            differ += not agree(found, wanted)
            assert all(mine >= theirs - 1e-4 for (_, mine), (_, theirs) in zip(found, wanted, strict=True))
    print(f"{differ} of {compared} differ")
    assert 0 < differ < compared
