"""Build all prompts, for training and decoding alike (GRACE, section 3.3).

    memorize   image {scheme} id<image>id {ID}<|endofchunk|>     with the image
    retrieve   caption:{caption}<image>id {ID}<|endofchunk|>     with the pad image
    caption    <image>caption:{caption}<|endofchunk|>            with the image (the captioner)

Prompts are assembled from token ids, never by joining and splitting text, so a caption may contain `id`, `#` or the name of
a special token. Nothing is truncated: a caption too long for the model is an error in training and in decoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from grace.identifiers.base import END_TOKEN, end_token_id, plain_tokens
from grace.system.errors import GraceError

MEDIA_TOKEN = "<image>"
PAD_TOKEN = "<PAD>"
SPECIAL_TOKENS = (END_TOKEN, MEDIA_TOKEN)


@dataclass(frozen=True)
class Prompts:
    """Token ids of prompts. A *target* is what the model should generate, including the end token."""

    tokenizer: Any

    @property
    def end(self) -> int:
        return end_token_id(self.tokenizer)

    @property
    def media(self) -> int:
        return int(self.tokenizer.convert_tokens_to_ids(MEDIA_TOKEN))

    def memorize(self, scheme: str) -> list[int]:
        """The prompt that asks for the identifier of the given image."""
        return [*self._plain(f"image {scheme} id"), self.media, *self._plain("id")]

    def retrieve(self, captions: Sequence[str]) -> list[list[int]]:
        """The prompts that ask for the identifiers of the images that `captions` describe."""
        start, end = self._plain("caption:"), [self.media, *self._plain("id")]
        return [[*start, *caption, *end] for caption in plain_tokens(self.tokenizer, captions)]

    def caption(self) -> list[int]:
        """The prompt that asks for a caption of the given image."""
        return [self.media, *self._plain("caption:")]

    def caption_targets(self, captions: Sequence[str]) -> list[list[int]]:
        return [[*caption, self.end] for caption in plain_tokens(self.tokenizer, captions)]

    def identifier_targets(self, identifiers: Sequence[Sequence[int]]) -> list[list[int]]:
        return [[*map(int, identifier), self.end] for identifier in identifiers]

    def _plain(self, text: str) -> list[int]:
        return plain_tokens(self.tokenizer, [text])[0]


def check_lengths(lengths: Sequence[int], limit: int | None, what: str, texts: Sequence[str] | None = None) -> None:
    """Raise a `GraceError` if a sequence is longer than the model can read; nothing is ever truncated.

    `texts`: the text of each sequence; the error quotes the longest.
    """
    longest = max(lengths, default=0)
    if limit is not None and longest > limit:
        text = texts[list(lengths).index(longest)] if texts is not None else ""
        shown = f" ({text[:80]!r}{'...' if len(text) > 80 else ''})" if text else ""
        raise GraceError(
            f"the longest {what} has {longest} tokens{shown}, but the language model reads at most {limit}; shorten it, raise "
            "flamingo.scratch.max_length, or choose a model with a longer context"
        )


def check_queries(
    prompts: Prompts, texts: Sequence[str], longest_identifier: int, limit: int | None, what: str
) -> None:
    """Raise a `GraceError` for a query that leaves no room for an identifier; called before any training."""
    lengths = [len(ids) + longest_identifier for ids in prompts.retrieve(texts)]
    check_lengths(lengths, limit, f"{what} with its identifier", texts)
