"""A small data set in Karpathy's JSON format, and the reader on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from grace.data.karpathy import karpathy
from grace.data.tables import load_dataset
from grace.workflow.config import Karpathy


def document(dialect: str = "flickr", splits: str = "val train train restval test test") -> dict[str, Any]:
    images = []
    for row, split in enumerate(splits.split()):
        entry = {
            "imgid": row, "filename": f"{row}.png", "split": split,
            "sentences": [
                {"sentid": 10 * row + place, "imgid": row, "raw": f"caption {row} {place}", "tokens": []}
                for place in range(2)
            ],
        }  # fmt: skip
        if dialect == "coco":
            entry |= {"cocoid": 1000 + row, "filepath": "val2014"}
        images.append(entry)
    return {"images": images, "dataset": dialect}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with images/ (flat and in val2014/) and a place for the JSON file."""
    for path in ("images", "images/val2014"):
        (tmp_path / path).mkdir()
        for row in range(6):
            Image.new("RGB", (8, 8), (row * 40, 0, 0)).save(tmp_path / path / f"{row}.png")
    return tmp_path


def run(folder: Path, content: Any, **settings: Any):
    path = folder / "dataset.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    output = folder / "output"
    karpathy(json_file=path, images=folder / "images", output=output, settings=Karpathy(**settings), name="tiny")
    return load_dataset(output)
