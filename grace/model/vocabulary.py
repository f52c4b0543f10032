"""A pretrained vocabulary cut down to what a data set needs.

SmolLM2 knows 49,152 tokens, captions use a fraction of them. On a processor the rest is most of the cost: of the softmax over
the vocabulary, and of the optimizer, which touches every row of the embedding at every step. What stays: every token of the
train captions and the tokens that byte pair encoding merges on the way to it, the first `most_common` tokens (their order is
that of their frequency), the single bytes (so that any text still has tokens, if more of them), and added tokens. The captions
are cut into the same tokens as before.
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
    """A tokenizer of the same kind that knows what `texts` need, and the tokens before id `most_common`.

    Its tokens keep their order, not their ids. Raises `GraceError` for a tokenizer that is not of byte pair encoding.
    """
    from tokenizers import Tokenizer

    whole = json.loads(tokenizer.backend_tokenizer.to_str())
    if whole["model"]["type"] != "BPE":
        raise GraceError(
            f"flamingo.pretrained.vocabulary needs a tokenizer of byte pair encoding, not {whole['model']['type']}; set it to 0"
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
    whole["post_processor"] = None  # its ids are the old ones; prompts are put together without it
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items() if isinstance(token, str)}
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(whole)), padding_side="right", **special
    )


def cut_embeddings(model: nn.Module, whole: Any, tokenizer: Any) -> None:
    """Keep of the embedding and the head of `model` the rows of those tokens of `whole` that `tokenizer` has, in its order."""
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
    """The tokens that are merged into those of `kept`, and into these, and so on."""
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
            "give a local folder in flamingo.pretrained.tokenizer where no hub can be reached"
        ) from None
    if not found.is_fast:
        raise GraceError(f"tokenizer {name!r} has no fast version (tokenizer.json); choose one that has")
    return found
