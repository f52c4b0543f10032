"""Small models and random sets of identifiers, and the score of every identifier without a search."""

from __future__ import annotations

import pytest
import torch

from grace.identifiers.base import read_tokenizer
from grace.model.flamingo import build
from grace.workflow.config import Flamingo, ScratchLanguageModel

SETTINGS = {"perceiver_latents": 4, "cross_attention_every": 1}


@pytest.fixture(scope="module", params=["opt", "mpt", "llama"])
def parts(request, tokenizer_folder):
    tokenizer = read_tokenizer(tokenizer_folder)
    small = ScratchLanguageModel(architecture=request.param, width=32, layers=2, heads=2, max_length=96)
    model = build(Flamingo(scratch=small, **SETTINGS), tokenizer, visual_width=16).eval()
    with torch.no_grad():  # sharp enough that scores differ, so that the order is decided
        for parameter in model.lang_encoder.parameters():
            parameter.mul_(2.0)
    return model, tokenizer


def brute_force(model, prompt, media, bodies, end: int, normalisation="full", allowed=None) -> list[float]:
    """Scores of whole identifiers, each closed by `end`: one full forward pass each, without cache or trie."""
    scores = []
    sequences = [(*body, end) for body in bodies]
    for sequence in sequences:
        ids = torch.tensor([[*prompt, *sequence]])
        hidden, _ = model.hidden_states(ids, media)
        logits = model.head(hidden[0, len(prompt) - 1 : -1]).float()
        score = 0.0
        for place, token in enumerate(sequence):
            rows = logits[place]
            if normalisation == "children":
                keep = sorted({s[place] for s in sequences if s[:place] == sequence[:place] and len(s) > place})
                score += (rows[token] - rows[keep].logsumexp(0)).item()
            elif normalisation == "level":
                score += (rows[token] - rows[allowed[place]].logsumexp(0)).item()
            else:
                score += rows.log_softmax(-1)[token].item()
        scores.append(score)
    return scores


def random_set(rng, vocabulary: int, number: int, lengths: tuple[int, int] = (1, 4)) -> list[tuple[int, ...]]:
    """Different sequences of few tokens, of `lengths` (least and most) tokens each; some may begin others."""
    tokens = rng.choice(vocabulary - 3, size=6, replace=False)
    sizes = rng.integers(lengths[0], lengths[1] + 1, size=number)
    return sorted({tuple(map(int, rng.choice(tokens, size=size))) for size in sizes})


def alphabets(sequences, end: int) -> list[list[int]]:
    """Tokens of every level, the end token where an identifier may end."""
    closed = [(*sequence, end) for sequence in sequences]
    return [sorted({s[d] for s in closed if len(s) > d}) for d in range(max(map(len, closed)))]


def of_one_length(queries: list[list[int]]) -> torch.Tensor:
    """Prompts of one length, int64 [B, L]: what they say does not matter here."""
    length = max(map(len, queries))
    return torch.tensor([query + query[-1:] * (length - len(query)) for query in queries])
