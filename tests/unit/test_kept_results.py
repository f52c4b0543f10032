"""The README's tables hold the figures of the kept results."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ["scenes.json", "scenes_full.json", "flickr8k_offline.json"])
def test_the_readme_shows_what_is_kept(name: str) -> None:
    section = (ROOT / "README.md").read_text(encoding="utf-8").split(f"docs/results/{name})", 1)[1].split("\n\n")[1]
    shown = dict(re.findall(r"^\| (?:dual encoder \()?(\w+)\)? \| (.*?) \|", section, re.MULTILINE))
    rows = {row["system"]: row for row in json.loads((ROOT / "docs" / "results" / name).read_text(encoding="utf-8"))}
    assert set(rows) == set(shown) - {"system"}
    for system, row in rows.items():
        low, high = row["intervals"]["R@1"]
        assert shown[system] == f"{100 * row['R@1']:.1f} ({100 * low:.1f}-{100 * high:.1f})"
