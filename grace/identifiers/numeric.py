"""numeric: the running number of an image with its digits separated, `1 3 0 4 2`.

The train and test images are first shuffled with the seed, so that the numbers seen in training cover the same range as the
gallery's, and so that the order of the data set's file has no influence.
"""

from __future__ import annotations

import numpy as np

from grace.identifiers.base import Assignment, Inputs, identifier_tokens


def numeric(inputs: Inputs) -> Assignment:
    """One identifier per image: the digits of its number, separated by spaces, not padded."""
    texts = [" ".join(str(number)) for number in running_numbers(inputs)]
    return Assignment(np.arange(len(texts)), identifier_tokens(inputs.tokenizer, texts), texts)


def running_numbers(inputs: Inputs) -> list[int]:
    """A number 0..n-1 for every image; a seeded permutation unless `shuffle` is off."""
    count = len(inputs.images)
    if not inputs.settings.shuffle:
        return list(range(count))
    return np.random.default_rng([inputs.seed, 1]).permutation(count).tolist()
