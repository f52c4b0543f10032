"""The images that a data set skips: their table, the limit on their number, and the error beyond it.

Writes `skipped.parquet` into the dataset folder (image_id, file, reason, detail), which the report shows. Part of
`python -m grace dataset`.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from grace.system.errors import GraceError
from grace.system.files import read_table, write_table

SKIPPED_FILE = "skipped.parquet"
COLUMNS = ["image_id", "file", "reason", "detail"]
HARMLESS = ("duplicate", "another copy")
"""Reasons without loss: the picture is kept under another name or in another format (a raw file next to its JPEG)."""

NAMED = 20
"""How many images the error lists."""


def skipped_table(rows: list[tuple[str, str, str, str]]) -> pd.DataFrame:
    """Rows (image_id, file, reason, detail) as a table of strings."""
    return pd.DataFrame(rows, columns=COLUMNS, dtype=object)


def check_bound(skipped: pd.DataFrame, images: int, largest_share: float, key: str, where: str, hint: str) -> None:
    """Raise a `GraceError` if more than `largest_share` of `images` images are lost; `key` is the setting for that limit."""
    lost = skipped[~skipped["reason"].isin(HARMLESS)]
    if len(lost) <= largest_share * images:
        return
    first = lost.iloc[0]
    counts = ", ".join(f"{count} {reason}" for reason, count in lost["reason"].value_counts().items())
    others = [f"{file} ({reason})" for file, reason in zip(lost["file"], lost["reason"], strict=True)][1:NAMED]
    then = f"; also {', '.join(others)}" if others else ""
    more = f" and {len(lost) - NAMED} more" if len(lost) > NAMED else ""
    share = len(lost) / max(images, 1)
    raise GraceError(
        f"{len(lost)} of {images} images cannot be used ({counts}): image {where}/{first['file']} {first['detail']}{then}{more}; "
        f"{hint}, or raise the limit: {key} is {largest_share:g}, but a share of {share:.3f} would be skipped"
    )


def write_skipped(folder: Path, skipped: pd.DataFrame) -> None:
    write_table(folder / SKIPPED_FILE, skipped[COLUMNS])


def read_skipped(folder: Path) -> pd.DataFrame | None:
    """The table in a dataset folder, or None if the data set draws its images and so checks none."""
    path = folder / SKIPPED_FILE
    return read_table(path, "table of skipped images", COLUMNS) if path.exists() else None
