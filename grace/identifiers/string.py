"""string: the same running number as in numeric, written without spaces, `13042`, and split by the tokenizer."""

from __future__ import annotations

import numpy as np

from grace.identifiers.base import Assignment, Inputs, identifier_tokens
from grace.identifiers.numeric import running_numbers


def string(inputs: Inputs) -> Assignment:
    """One identifier per image: its number as the tokenizer splits it."""
    texts = [str(number) for number in running_numbers(inputs)]
    return Assignment(np.arange(len(texts)), identifier_tokens(inputs.tokenizer, texts), texts)
