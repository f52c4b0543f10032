"""numeric: the running number of an image with its digits apart, `1 3 0 4 2`.

The train and test images are shuffled with the seed first, so that numbers seen in training cover the range of the
gallery's; the order of the data set's file says nothing about an image and must not be copied.
"""

from __future__ import annotations

import numpy as np

from grace.identifiers.base import Assignment, Inputs, identifier_tokens


def numeric(inputs: Inputs) -> Assignment:
    """One identifier an image: blank-separated digits of its number, not padded."""
    texts = [" ".join(str(number)) for number in running_numbers(inputs)]
    return Assignment(np.arange(len(texts)), identifier_tokens(inputs.tokenizer, texts), texts)


def running_numbers(inputs: Inputs) -> list[int]:
    """A number 0..n-1 for every image; a seeded permutation unless `shuffle` is off."""
    count = len(inputs.images)
    if not inputs.settings.shuffle:
        return list(range(count))
    return np.random.default_rng([inputs.seed, 1]).permutation(count).tolist()
