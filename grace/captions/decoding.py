"""Write captions: seeded sampling and unconstrained beam search, for the pseudo-queries.

Legend: B images, K beams, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import DynamicCache

from grace.identifiers.base import identifier_text
from grace.model.prompts import Prompts

MINUS = float("-inf")
Written = list[tuple[int, str, float]]  # (place in the batch, text, log-probability in nats)


@torch.inference_mode()
def sample_captions(
    model, prompts: Prompts, media_B1NC: Tensor, temperature: float, max_tokens: int, generator: torch.Generator
) -> Written:
    """Sample one caption per image; a caption that has not ended after `max_tokens` tokens is dropped."""
    batch, device = len(media_B1NC), media_B1NC.device
    cache = DynamicCache()
    ids = torch.tensor([prompts.caption()] * batch, device=device)
    score = torch.zeros(batch, device=device)
    ended = torch.zeros(batch, dtype=torch.bool, device=device)
    steps = []
    for _ in range(max_tokens):
        hidden, cache = model.hidden_states(ids, media_B1NC, past_key_values=cache)
        logits = _allowed(model.head(hidden[:, -1]).float(), prompts)
        token = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)
        gain = logits.log_softmax(-1).gather(1, token)[:, 0]
        score += gain.masked_fill(ended, 0.0)
        token = token[:, 0].masked_fill(ended, prompts.end)
        steps.append(token)
        ended |= token == prompts.end
        if bool(ended.all()):
            break
        ids = token[:, None]
    return _texts(prompts, torch.stack(steps, 1).tolist(), score.tolist(), ended.tolist(), list(range(batch)))


@torch.inference_mode()
def beam_captions(model, prompts: Prompts, media_B1NC: Tensor, beams: int, max_tokens: int) -> Written:
    """The `beams` best captions of each image by beam search (GRACE: 5 beams, 5 returned), by log-probability."""
    batch, device = len(media_B1NC), media_B1NC.device
    media = media_B1NC.repeat_interleave(beams, 0)
    cache = DynamicCache()
    ids = torch.tensor([prompts.caption()] * (batch * beams), device=device)
    scores = torch.full((batch, beams), MINUS, device=device)
    scores[:, 0] = 0.0  # all beams start identical, so only one may count
    ended = torch.zeros(batch, beams, dtype=torch.bool, device=device)
    tokens = torch.empty(batch, beams, 0, dtype=torch.long, device=device)
    for _ in range(max_tokens):
        hidden, cache = model.hidden_states(ids, media, past_key_values=cache)
        step = _allowed(model.head(hidden[:, -1]).float(), prompts).log_softmax(-1).view(batch, beams, -1)
        step = step.masked_fill(ended[..., None], MINUS)
        step[..., prompts.end] = step[..., prompts.end].masked_fill(ended, 0.0)  # a finished beam stays unchanged
        scores, chosen = (scores[..., None] + step).flatten(1).topk(beams, dim=1)
        parents, token = chosen // step.shape[2], chosen % step.shape[2]
        ended = ended.gather(1, parents) | (token == prompts.end)
        tokens = torch.cat([tokens.gather(1, parents[..., None].expand(-1, -1, tokens.shape[2])), token[..., None]], 2)
        if bool(ended.all()):
            break
        cache.reorder_cache((torch.arange(batch, device=device)[:, None] * beams + parents).flatten())
        ids = token.reshape(-1, 1)
    places = [place for place in range(batch) for _ in range(beams)]
    return _texts(prompts, tokens.flatten(0, 1).tolist(), scores.flatten().tolist(), ended.flatten().tolist(), places)


def _allowed(logits: Tensor, prompts: Prompts) -> Tensor:
    """Mask all special tokens but the end token, since a caption contains no other."""
    special = [token for token in prompts.tokenizer.all_special_ids if token != prompts.end]
    logits[:, special] = MINUS
    return logits


def _texts(prompts: Prompts, rows: list, scores: list, ended: list, places: list[int]) -> Written:
    whole = [
        (place, row[: row.index(prompts.end)], score)
        for place, row, score, done in zip(places, rows, scores, ended, strict=True)
        if done
    ]
    texts = identifier_text(prompts.tokenizer, [row for _, row, _ in whole])
    return [(place, text.strip(), score) for (place, _, score), text in zip(whole, texts, strict=True)]
