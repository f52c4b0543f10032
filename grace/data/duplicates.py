"""Files of one content: the same photograph under two names.

Part of `python -m grace dataset`. A folder of one's own keeps the first of them (`grace.data.folder`); a published data set
keeps all, because its split is what others measured on, and says how many there are.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

SHOWN = 20


def first_of(digests: pd.Series) -> pd.Series:
    """For every digest, the place (0..n-1) of the first equal one."""
    places = pd.Series(range(len(digests)), index=digests.index)
    return places.groupby(digests.to_numpy()).transform("min")


def duplicate_summary(image_ids: pd.Series, splits: pd.Series, digests: pd.Series) -> dict[str, Any]:
    """How many images have the bytes of an earlier one, how many of these in another split, and the first pairs."""
    first = first_of(digests).to_numpy()
    later = (first != range(len(first))).nonzero()[0]
    ids, split = image_ids.to_numpy(), splits.to_numpy()
    across = [place for place in later if split[place] != split[first[place]]]
    pairs = [[str(ids[first[place]]), str(ids[place])] for place in (across or later)[:SHOWN]]
    return {"identical_files": len(later), "across_splits": len(across), "pairs": pairs}
