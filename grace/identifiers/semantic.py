"""semantic: texts that describe the image: gold captions for a train image, pseudo-queries for a gallery image.

An image has several identifiers; a text shared by two images belongs to both. No gold caption of a test image is read.
"""

from __future__ import annotations

import pandas as pd

from grace.identifiers.base import Assignment, Inputs, identifier_tokens
from grace.system.errors import GraceError


def semantic(inputs: Inputs) -> Assignment:
    """One identifier for every distinct text of an image, in the order of the images."""
    captions = inputs.dataset.captions_of("train")[["image_id", "text"]]
    # val images are treated like test images
    gallery = set(inputs.images["image_id"][inputs.images["split"] != "train"])
    queries = inputs.pseudo_queries
    queries = queries[queries["image_id"].isin(gallery)][["image_id", "text"]]
    texts = pd.concat([captions, queries], ignore_index=True)
    texts["text"] = texts["text"].str.strip()
    blank = texts["text"].isna() | (texts["text"] == "")
    if blank.any():
        raise GraceError(f"semantic identifiers: a text of image {texts['image_id'][blank].iloc[0]} is empty")
    row_of = pd.Series(inputs.images.index.to_numpy(), index=inputs.images["image_id"].to_numpy())
    texts["image"] = row_of.reindex(texts["image_id"].to_numpy()).to_numpy()
    texts = texts.drop_duplicates(["image", "text"]).sort_values("image", kind="stable")
    mute = ~inputs.images["image_id"].isin(texts["image_id"])
    if mute.any():
        image = inputs.images[mute].iloc[0]
        kind = "caption" if image["split"] == "train" else "pseudo-query"
        raise GraceError(
            f"semantic identifiers: {image['split']} image {image['image_id']} has no {kind} "
            f"({int(mute.sum())} such images); every gallery image needs at least one pseudo-query"
        )
    chosen = texts["text"].tolist()
    return Assignment(texts["image"].to_numpy(dtype="int64"), identifier_tokens(inputs.tokenizer, chosen), chosen)
