"""Identical files: the same photograph under two names.

Part of `python -m grace dataset`. A user's folder keeps the first copy (`grace.data.folder`). A published data set keeps
every copy, because others have reported results on that split; the duplicates are only counted.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

SHOWN = 20


def first_of(digests: pd.Series) -> pd.Series:
    """For every digest, the position (0..n-1) of its first occurrence."""
    places = pd.Series(range(len(digests)), index=digests.index)
    return places.groupby(digests.to_numpy()).transform("min")


def duplicate_summary(image_ids: pd.Series, splits: pd.Series, digests: pd.Series) -> dict[str, Any]:
    """Count the images whose bytes equal an earlier one's, and those in a different split; list the first pairs."""
    first = first_of(digests).to_numpy()
    later = (first != range(len(first))).nonzero()[0]
    ids, split = image_ids.to_numpy(), splits.to_numpy()
    across = [place for place in later if split[place] != split[first[place]]]
    pairs = [[str(ids[first[place]]), str(ids[place])] for place in (across or later)[:SHOWN]]
    return {"identical_files": len(later), "across_splits": len(across), "pairs": pairs}
