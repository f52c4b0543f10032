"""The score of one identifier for one query, without a search: a teacher-forced pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from grace.identifiers.tree import Trie
from grace.retrieval.hypotheses import Rule


@torch.inference_mode()
def identifier_score(
    model, prompt: Sequence[int], media_1NC: Tensor, trie: Trie, identifier: Sequence[int], rule: Rule
) -> float:
    """The log-likelihood of `identifier`, end token included, after `prompt`: nats, as both searches score it.

    `identifier` (token ids without the end token) is in the tree. `media_1NC` is the resampled pad image.
    """
    ids = torch.tensor([[*prompt, *identifier]], device=media_1NC.device)
    hidden, _ = model.hidden_states(ids, media_1NC)
    logits_LV = model.head(hidden[0, len(prompt) - 1 :]).float()
    score, node = logits_LV.new_zeros(()), 0
    for depth, (logits_V, token) in enumerate(zip(logits_LV, [*identifier, trie.end], strict=True)):
        labels, nodes = trie.children(node)
        ends = [trie.end] if trie.images_at(node) else []
        valid = torch.cat([labels, labels.new_tensor(ends)])
        score = score + (logits_V[token] - rule.base(logits_V, depth, logits_V[valid]))
        if depth < len(identifier):
            node = int(nodes[labels == token])
    return float(score)
