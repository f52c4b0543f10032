"""string: the same running number as in numeric, written together, `13042`, as the tokenizer cuts it."""

from __future__ import annotations

import numpy as np

from grace.identifiers.base import Assignment, Inputs, identifier_tokens
from grace.identifiers.numeric import running_numbers


def string(inputs: Inputs) -> Assignment:
    """One identifier an image: its number as the tokenizer cuts it."""
    texts = [str(number) for number in running_numbers(inputs)]
    return Assignment(np.arange(len(texts)), identifier_tokens(inputs.tokenizer, texts), texts)
