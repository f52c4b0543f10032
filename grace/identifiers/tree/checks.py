"""What a trie requires of a set of identifiers: valid token ids, and unambiguous ends."""

from __future__ import annotations

import numpy as np

from grace.system.errors import GraceError


def check_sequences(flat: np.ndarray, lengths_S: np.ndarray, end: int | None) -> None:
    if not lengths_S.min():
        raise GraceError(f"identifier {int(lengths_S.argmin())} has no token")
    if flat.min() < 0 or flat.max() > np.iinfo(np.int32).max:
        raise GraceError("a token id of an identifier is negative or too large")
    if end is not None and (flat == end).any():
        row = int(np.searchsorted(np.cumsum(lengths_S), (flat == end).argmax(), side="right"))
        raise GraceError(f"identifier {row} contains the end token {end}, which is only allowed at the end")


def check_prefix_free(flat: np.ndarray, lengths_S: np.ndarray, nodes, images: np.ndarray, image_ids) -> None:
    inner = nodes.ends < nodes.levels[-2]
    inner[inner] = np.diff(nodes.first)[nodes.ends[inner]] > 0
    if inner.any():
        at = int(inner.argmax()) if nodes.order is None else int(nodes.order[inner.argmax()])
        start = int(lengths_S[:at].sum())
        prefix = flat[start : start + lengths_S[at]].tolist()
        raise GraceError(
            f"identifiers are not prefix-free: {prefix} (image {image_ids[int(images[at])]}) is a prefix of "
            "another, and there is no end token"
        )
