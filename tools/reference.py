"""The generated parts of the documentation: tables of configuration keys, commands, rooms of the package, stages.

A page holds a marker such as `<!-- generated: commands -->`; MkDocs calls `on_page_markdown` for every page (mkdocs.yml,
`hooks`), which replaces the markers with Markdown made from the pydantic models, the typer app and pyproject.toml. Nothing is
written to disk, so nothing can get out of date. To see the text for a marker:

    python tools/reference.py commands
"""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
MARKER = re.compile(r"^<!-- generated: ([a-z]+) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace every marker of a page; an unknown one raises KeyError and so fails the build."""
    return MARKER.sub(lambda marker: GENERATED[marker[1]](), markdown)


def configuration() -> str:
    """A heading and a table for each section of the configuration."""
    from grace.workflow.config import Config

    return "\n\n".join(_section("", Config()))


def commands() -> str:
    """A heading, the usage and a table of parameters for each command."""
    from typer.main import get_command

    from grace.cli import app

    return "\n\n".join(_command("grace", get_command(app)))


def rooms() -> str:
    """A table of the rooms of the package, from the top layer to the bottom one."""
    layers = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    rows = []
    for layer in next(contract["layers"] for contract in layers if contract["type"] == "layers"):
        for room in layer.split(" : "):
            path = ROOT / "grace" / room / "__init__.py"
            path = path if path.is_file() else path.parent.with_suffix(".py")
            about = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            rows.append((f"`grace.{room}`", " ".join(about.partition("\n\n")[0].split())))
    return table(("room", "what it holds"), rows)


def stages() -> str:
    """A table of the stages and their version numbers."""
    from grace.workflow.stages import STAGES

    return table(("stage", "version"), [(f"`{name}`", str(number)) for name, number in STAGES.items()])


GENERATED: dict[str, Callable[[], str]] = {
    "configuration": configuration,
    "commands": commands,
    "rooms": rooms,
    "stages": stages,
}


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; bars inside cells are escaped."""
    lines = [list(head), *map(list, rows)]
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def _section(name: str, section: Any) -> list[str]:
    """The Markdown of a section and, below it, of the sections in it; `name` is its dotted key, empty for the top."""
    from pydantic import BaseModel

    parts = [f"{'#' * (2 + name.count('.'))} {name}"] if name else []
    about = (type(section).__dict__.get("__doc__") or "").strip()
    if name and about:
        parts.append(about)
    shape = type(section).model_json_schema()
    rows, below = [], []
    for key, field in type(section).model_fields.items():
        value, dotted = getattr(section, key), f"{name}.{key}".lstrip(".")
        if isinstance(value, BaseModel):
            below.append((dotted, value))
        else:
            limits = _limits(shape["properties"][key])
            rows.append((f"`{key}`", f"`{_yaml(value)}`", limits, _plain(field.description or "")))
    if rows:
        parts.append(table(("key", "default", "allowed", "meaning"), rows))
    for dotted, value in below:
        parts += _section(dotted, value)
    return parts


def _limits(shape: dict[str, Any]) -> str:
    """The values that a key allows, as text, from its part of the JSON schema."""
    if "anyOf" in shape:
        return " or ".join(_limits(choice) for choice in shape["anyOf"])
    if "enum" in shape or "const" in shape:
        return ", ".join(f"`{_yaml(value)}`" for value in shape.get("enum", [shape.get("const")]))
    kind = shape.get("type", "")
    if kind == "array":
        return f"list of: {_limits(shape['items'])}"
    if kind == "object":
        return f"names, each with: {_limits(shape['additionalProperties'])}"
    words = {"integer": "integer", "number": "number", "string": "text", "boolean": "`true`, `false`", "null": "`null`"}
    bounds = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    said = [f"{sign} {shape[bound]:g}" for bound, sign in bounds.items() if bound in shape]
    return " ".join([words[kind], ", ".join(said)]).strip()


def _command(name: str, command: Any) -> list[str]:
    """The Markdown of a command; for a group, also of the commands in it."""
    parameters = [parameter for parameter in command.params if parameter.name != "help"]
    parts = [f"{'#' * max(2, len(name.split()))} {name}", _plain(" ".join((command.help or "").split()))]
    if parameters:
        parts.append(table(("parameter", "default", "meaning"), map(_parameter, parameters)))
    for key, below in getattr(command, "commands", {}).items():
        parts += [] if below.hidden else _command(f"{name} {key}", below)
    return parts


def _parameter(parameter: Any) -> tuple[str, str, str]:
    """A row: how a parameter is written, its default, its meaning."""
    if parameter.param_type_name == "argument":
        written = f"`{parameter.name.upper()}{'...' if parameter.nargs == -1 else ''}`"
    else:
        written = ", ".join(f"`{option}`" for option in [*parameter.opts, *parameter.secondary_opts])
    default = "required" if parameter.required else f"`{parameter.default}`"
    return written, "" if default in ("`None`", "``", "`False`") else default, _plain(parameter.help or "")


def _yaml(value: Any) -> str:
    """A value as YAML writes it, on one line."""
    value = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()


def _plain(text: str) -> str:
    """Text escaped for Markdown; text between backticks stays code."""
    parts = re.split(r"(`[^`]*`)", text)
    parts[::2] = [re.sub(r"([\\*_<\[\]])", r"\\\1", part) for part in parts[::2]]
    return "".join(parts)


if __name__ == "__main__":
    print(GENERATED[sys.argv[1]]())
