"""Configuration files: YAML without duplicate keys, merged in order, with the origin of every key.

Read by `python -m grace config --check`, `grace plan` and, for the files that Snakemake was given, by the workflow.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from grace.system.errors import GraceError

Place = tuple[str | int, ...]
"""A key as the path of names that leads to it."""


class _OnceLoader(yaml.SafeLoader):
    """YAML without duplicate keys in a mapping, of which PyYAML would silently keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: dict[Any, int] = {}
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge" or not isinstance(key, yaml.ScalarNode):
                continue
            name, line = self.construct_object(key, deep=True), key.start_mark.line + 1
            if name in seen:
                raise yaml.MarkedYAMLError(problem=f"duplicate key '{name}' in lines {seen[name]} and {line}; keep one")
            seen[name] = line
        return super().construct_mapping(node, deep)


def read_overlay(path: Path | str) -> dict[str, Any]:
    """The keys of one configuration file; raises `GraceError` if it is missing, empty, or not a YAML mapping."""
    path = Path(path)
    try:
        found = yaml.load(path.read_text(encoding="utf-8"), _OnceLoader)
    except FileNotFoundError:
        raise GraceError(f"configuration file {path} does not exist") from None
    except OSError as error:
        raise GraceError(f"configuration file {path} cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, TypeError) as error:
        raise GraceError(f"configuration file {path} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict) or not found:
        raise GraceError(
            f"configuration file {path} contains no keys; add keys such as `output: results`, or leave it out"
        )
    return found


class Overlays:
    """Configuration files, where later ones override earlier ones."""

    def __init__(self, paths: Iterable[Path | str]) -> None:
        self.files = [(Path(path), read_overlay(path)) for path in paths]

    @property
    def values(self) -> dict[str, Any]:
        """The merged keys of all files."""
        values: dict[str, Any] = {}
        for _, found in self.files:
            values = laid_over(values, found)
        return values

    def origin(self, place: Place, wrong: Any) -> str:
        """The file that the `wrong` value of a key comes from; empty if none (a default, or from the command line)."""
        for path, found in reversed(self.files):
            value: Any = found
            for name in place:
                inside = name in value if isinstance(value, dict) else isinstance(value, list) and name < len(value)
                if not inside:
                    break
                value = value[name]
            else:
                return str(path) if place and value == wrong else ""
        return ""


def laid_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`below` overridden by `above`; sections are merged key by key."""
    out = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = laid_over(out[key], value) if both else value
    return out
