"""Reduce a pretrained vocabulary to what a data set needs.

SmolLM2 has 49,152 tokens, of which captions use a fraction. On a CPU the rest accounts for most of the cost of the softmax,
and of the optimizer, which updates every row of the embedding at every step. Kept are: every token of the train captions,
with the tokens that byte pair encoding merges into it; the first `most_common` tokens (they are ordered by frequency); the
single bytes (so that any text can still be encoded, if in more tokens); and added tokens. The train captions are tokenized
as before.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from grace.identifiers.base import plain_tokens
from grace.model.gguf import gguf_file, read_tokenizer
from grace.system.errors import GraceError


def cut_tokenizer(tokenizer: Any, texts: Iterable[str], most_common: int) -> Any:
    """A tokenizer of the same kind with only the tokens that `texts` need, and those before id `most_common`.

    Tokens keep their order, but not their ids. Raises `GraceError` if the tokenizer does not use byte pair encoding.
    """
    from tokenizers import Tokenizer

    whole = json.loads(tokenizer.backend_tokenizer.to_str())
    if whole["model"]["type"] != "BPE":
        raise GraceError(
            f"flamingo.pretrained.vocabulary needs a byte pair encoding tokenizer, not {whole['model']['type']}; set it to 0"
        )
    vocabulary = whole["model"]["vocab"]
    kept = {token["content"] for token in whole["added_tokens"]} | set(_alphabet()) & set(vocabulary)
    used = {number for ids in plain_tokens(tokenizer, list(texts)) for number in ids}
    used |= set(range(min(most_common, len(tokenizer))))
    kept |= set(tokenizer.convert_ids_to_tokens(sorted(used)))
    merges = [tuple(merge.split(" ") if isinstance(merge, str) else merge) for merge in whole["model"]["merges"]]
    kept |= _parts(kept, merges)
    order = sorted(kept, key=tokenizer.convert_tokens_to_ids)
    ids = {token: number for number, token in enumerate(order)}
    whole["model"]["vocab"] = {token: ids[token] for token in order if token in vocabulary}
    whole["model"]["merges"] = [list(merge) for merge in merges if {*merge, "".join(merge)} <= kept]
    for token in whole["added_tokens"]:
        token["id"] = ids[token["content"]]
    whole["post_processor"] = None  # it uses the old ids; prompts are assembled without it
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(whole)), padding_side="right", **special
    )


def cut_embeddings(model: nn.Module, whole: Any, tokenizer: Any) -> None:
    """Reduce the embedding and the head of `model`, which belong to `whole`, to the tokens of `tokenizer`, in its order."""
    known = whole.get_vocab()
    tokens = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    rows = torch.tensor([known[token] for token, _ in tokens if token in known])
    if [token for token, _ in tokens[: len(rows)]] != [token for token, _ in tokens if token in known]:
        raise GraceError("the tokenizer was not cut from the language model's own; run tokenizer again")
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    head = model.get_output_embeddings()
    if not tied:
        head.weight = nn.Parameter(head.weight.detach()[rows].clone())
        head.out_features = len(rows)
        if getattr(head, "bias", None) is not None:
            head.bias = nn.Parameter(head.bias.detach()[rows].clone())
    model.set_input_embeddings(
        nn.Embedding.from_pretrained(model.get_input_embeddings().weight.detach()[rows].clone(), freeze=False)
    )
    model.config.vocab_size = len(rows)
    model.tie_weights()


def _parts(kept: set[str], merges: list[tuple[str, ...]]) -> set[str]:
    """The tokens that merge, directly or indirectly, into those of `kept`."""
    sources = defaultdict(set)
    for merge in merges:
        sources["".join(merge)].update(merge)
    found: set[str] = set()
    waiting = list(kept)
    while waiting:
        new = sources[waiting.pop()] - found - kept
        found |= new
        waiting.extend(new)
    return found


def _alphabet() -> list[str]:
    from tokenizers.pre_tokenizers import ByteLevel

    return ByteLevel.alphabet()


def fetch_tokenizer(name: str) -> Any:
    """A fast tokenizer by hub name, local folder or GGUF file."""
    from transformers import AutoTokenizer

    gguf = gguf_file(name)
    if gguf is not None:
        return read_tokenizer(gguf)
    try:
        found = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise GraceError(
            f"tokenizer {name!r} cannot be loaded ({str(error).strip().splitlines()[0]}); "
            "set flamingo.pretrained.tokenizer to a local folder if no hub can be reached"
        ) from None
    if not found.is_fast:
        raise GraceError(f"tokenizer {name!r} has no fast version (tokenizer.json); choose one that does")
    return found
