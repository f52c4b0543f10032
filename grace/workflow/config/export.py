"""config.yaml and config/schema.json, made from the models of `grace.workflow.config`.

Reads nothing but the models. Writes the commented defaults and the JSON schema (for `snakemake.utils.validate` and for
editors). Run it: `python -m grace config --write`. A test fails when the files drift from the models.
"""

from __future__ import annotations

import json
import textwrap
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from grace.system.errors import GraceError, did_you_mean
from grace.system.files import replacing
from grace.workflow.config import Config
from grace.workflow.config.overlays import EXTENDS

HEADER = """\
# yaml-language-server: $schema=config/schema.json
# GRACE: every key, its default and its meaning. Made by `python -m grace config --write` from grace/workflow/config/.
# Rather than edit this file, write only the keys that differ into a file of your own and lay it over this one:
#   snakemake --cores all --configfile config/mine.yaml
"""


def commented_defaults() -> str:
    """The text of config.yaml."""
    return HEADER + "\n" + "\n".join(_section(Config(), 0)) + "\n"


def schema() -> str:
    """The text of config/schema.json (JSON Schema, draft 2020-12)."""
    made = {"$schema": "https://json-schema.org/draft/2020-12/schema", **Config.model_json_schema()}
    about = "configuration file that this one is laid over; relative to this file"
    made["properties"] |= {EXTENDS: {"description": about, "type": "string"}}
    return json.dumps(made, indent=2, ensure_ascii=False) + "\n"


def made_files() -> dict[str, str]:
    """{path relative to the repository: text}"""
    return {"config.yaml": commented_defaults(), "config/schema.json": schema()}


def write_all(root: Path) -> list[Path]:
    """Write both files under `root`; return their paths."""
    paths = []
    for name, text in made_files().items():
        with replacing(root / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
        paths.append(root / name)
    return paths


def drifted(root: Path) -> list[str]:
    """Names of the files under `root` that are missing or differ from what the models say."""
    return [
        name
        for name, text in made_files().items()
        if not (root / name).is_file() or (root / name).read_text(encoding="utf-8") != text
    ]


def value_of(config: Config, key: str) -> str:
    """The value of a dotted key such as `train.steps`, as YAML writes it; an unknown key is a `GraceError`."""
    found: Any = config
    for name in key.split("."):
        fields = type(found).model_fields if isinstance(found, BaseModel) else {}
        if name not in fields:
            raise GraceError(f"unknown key '{key}'{did_you_mean(name, fields)}")
        found = getattr(found, name)
    if isinstance(found, BaseModel):
        return found.model_dump_json(indent=2)
    return _scalar(found)


def _section(section: BaseModel, depth: int) -> list[str]:
    indent = "  " * depth
    lines: list[str] = []
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            if depth == 0:
                lines.append("")
            lines += [f"{indent}# {line}" for line in textwrap.wrap(_about(value), 110)]
            lines += [f"{indent}{name}:", *_section(value, depth + 1)]
        else:
            text = f"{indent}{name}: {_scalar(value)}"
            lines.append(f"{text}  # {field.description}" if field.description else text)
    return lines


def _about(section: BaseModel) -> str:
    """A section's own docstring (pydantic's is inherited, so look no further than the class itself)."""
    return (type(section).__dict__.get("__doc__") or "").strip()


def _scalar(value: Any) -> str:
    value = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()
