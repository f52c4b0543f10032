"""config.yaml and config/schema.json are what the models say, and every key in them is explained."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest
import yaml

from grace.system.errors import GraceError
from grace.workflow.config import Config, parse
from grace.workflow.config.export import commented_defaults, drifted, made_files, value_of, write_all

ROOT = Path(__file__).resolve().parents[2]


def test_the_files_in_the_repository_have_not_drifted():
    assert drifted(ROOT) == [], "run: python -m grace config --write"


def test_drift_is_seen(tmp_path):
    write_all(tmp_path)
    assert drifted(tmp_path) == []
    path = tmp_path / "config.yaml"
    path.write_text(path.read_text().replace("beams: ", "beams: 1"))
    assert drifted(tmp_path) == ["config.yaml"]


def test_the_text_parses_back_to_the_defaults():
    assert parse(Config, yaml.safe_load(commented_defaults()), "made") == Config()


def test_every_key_is_explained():
    bare = [
        line
        for line in commented_defaults().splitlines()
        if line.strip() and "#" not in line and not line.rstrip().endswith(":")
    ]
    assert bare == []


def test_the_schema_accepts_the_defaults_and_refuses_an_unknown_key():
    import json

    schema = json.loads(made_files()["config/schema.json"])
    values = yaml.safe_load(commented_defaults())
    jsonschema.validate(values, schema)
    values["train"]["stepz"] = 1
    with pytest.raises(jsonschema.ValidationError, match="stepz"):
        jsonschema.validate(values, schema)


def test_one_value_by_its_dotted_key():
    assert value_of(Config(), "output") == "results"
    assert value_of(Config(), "retrieve.beams") == str(Config().retrieve.beams)
    with pytest.raises(GraceError, match="did you mean 'beams'"):
        value_of(Config(), "retrieve.beam")
