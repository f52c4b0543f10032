"""Pseudo-queries that a file gives: read alike in every format, checked, and no text twice because of blanks at its ends."""

from __future__ import annotations

import json
import math

import pandas as pd
import pytest

from grace.captions.pseudo_queries import from_file
from grace.system.errors import GraceError

IMAGES = pd.DataFrame({"image_id": ["im1", "im2"]})
ROWS = [("im1", " a dog"), ("im1", "a dog "), ("im1", "a  dog"), ("im2", "7")]


def write(path, rows: list[tuple], columns: tuple[str, str] = ("image_id", "text")):
    table = pd.DataFrame(rows, columns=columns)
    if path.suffix == ".csv":
        table.to_csv(path, index=False)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in table.to_dict("records")))
    else:
        table.to_parquet(path, index=False)
    return path


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_texts_are_what_identifiers_make_of_them(tmp_path, ending) -> None:
    """Semantic identifiers are these texts without blanks at the ends: a text with them would be taught to copy itself."""
    table = from_file(write(tmp_path / f"given.{ending}", ROWS), IMAGES)
    found = list(table[["image_id", "text"]].itertuples(index=False, name=None))
    assert found == [("im1", "a dog"), ("im1", "a  dog"), ("im2", "7")]
    assert all(map(math.isnan, table["score"]))


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([("im1", "a dog")], "has no row for 1 images, such as im2"),
        ([*ROWS, ("im3", "a cat")], "names im3, which is not a gallery image"),
        ([*ROWS, ("im2", "  ")], "must have image_id and text in every row"),
        ([*ROWS, ("im2", None)], "must have image_id and text in every row"),
    ],
)
def test_a_table_that_does_not_fit_is_told_in_words(tmp_path, ending, rows, said) -> None:
    with pytest.raises(GraceError, match=said):
        from_file(write(tmp_path / f"given.{ending}", rows), IMAGES)


def test_a_table_of_another_form_is_told_in_words(tmp_path) -> None:
    with pytest.raises(GraceError, match=r"must end in \.parquet, \.csv, \.tsv or \.jsonl"):
        from_file(write(tmp_path / "given.txt", ROWS), IMAGES)
    with pytest.raises(GraceError, match="no column 'image_id'; did you mean 'image'"):
        from_file(write(tmp_path / "given.csv", ROWS, ("image", "caption")), IMAGES)
