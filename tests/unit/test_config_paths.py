"""Paths that a configuration names are looked for when it is read, and are inputs of the stages that read them."""

from __future__ import annotations

from pathlib import Path

import pytest

from grace.system.errors import GraceError
from grace.workflow.config import Config, parse
from grace.workflow.config.paths import check_paths, read_by

WITH = {
    "dataset.karpathy.json_file": {"dataset": {"source": "karpathy", "karpathy": {"json_file": "{}", "images": "."}}},
    "dataset.karpathy.images": {"dataset": {"source": "karpathy", "karpathy": {"json_file": "there", "images": "{}"}}},
    "dataset.folder.images": {"dataset": {"source": "folder", "folder": {"images": "{}"}}},
    "dataset.folder.captions": {"dataset": {"source": "folder", "folder": {"images": ".", "captions": "{}"}}},
    "dataset.folder.captioner": {"dataset": {"source": "folder", "folder": {"images": ".", "captioner": "./{}"}}},
    "pseudo_queries.file": {"pseudo_queries": {"source": "file", "file": "{}"}},
    "flamingo.checkpoint": {"flamingo": {"checkpoint": "{}"}},
    "flamingo.pretrained.model": {"flamingo": {"language_model": "pretrained", "pretrained": {"model": "./{}"}}},
    "flamingo.pretrained.tokenizer": {
        "flamingo": {"language_model": "pretrained", "pretrained": {"tokenizer": "./{}"}}
    },
    "tower.open_clip.pretrained": {"tower": {"kind": "open_clip", "open_clip": {"pretrained": "./{}"}}},
    "tower.open_clip.model": {"tower": {"kind": "open_clip", "open_clip": {"model": "local-dir:./{}"}}},
    "runs.mine": {"runs": {"mine": "{}"}},
    "report.benchmark": {"report": {"benchmark": "{}"}},
}


def filled(values, name: str):
    if isinstance(values, dict):
        return {key: filled(value, name) for key, value in values.items()}
    return values.replace("{}", name) if isinstance(values, str) else values


@pytest.mark.parametrize("key", sorted(WITH))
def test_a_path_that_is_not_there_is_named_with_its_key(tmp_path, monkeypatch, key) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there").write_text("")
    config = parse(Config, filled(WITH[key], "gone"), "test")
    with pytest.raises(GraceError, match=rf"{key}: .*gone' does not exist \(looked for in {tmp_path}\)"):
        check_paths(config)
    Path("gone").mkdir() if key.endswith(("images", "captioner", "model", "tokenizer")) else Path("gone").write_text("")
    check_paths(config)


def test_names_of_a_hub_are_no_paths(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    values = {"flamingo": {"language_model": "pretrained"}, "tower": {"kind": "open_clip"}}
    check_paths(parse(Config, values, "test"))


def test_weights_are_inputs_of_the_stages_that_read_them() -> None:
    config = parse(Config, WITH["flamingo.checkpoint"], "test")
    assert read_by(config, "captioner") == read_by(config, "train") == ["{}"] and read_by(config, "tower") == []
    config = parse(Config, WITH["tower.open_clip.pretrained"], "test")
    assert read_by(config, "tower") == ["./{}"] and read_by(config, "train") == []
