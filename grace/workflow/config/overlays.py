"""Configuration files: YAML without duplicate keys, merged in order, with the origin of every key.

Read by `python -m grace config --check`, `grace plan` and, for the files that Snakemake was given, by the workflow.

A file can name another one, its base, with the key `extends`. It then overrides its base. The path is relative to the file
that names it, and a base can have a base of its own.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from grace.system.errors import GraceError

EXTENDS = "extends"
"""The key by which a file names its base; not part of the configuration itself."""
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
    """Configuration files, later ones override earlier ones, and each overrides the base that it extends."""

    def __init__(self, paths: Iterable[Path | str]) -> None:
        self.files: list[tuple[Path, dict[str, Any]]] = []
        self._bases: list[int] = []  # indices in `files` of those that another file extends
        for path in paths:
            chain = _with_bases(Path(path))
            self._bases += range(len(self.files), len(self.files) + len(chain) - 1)
            self.files += chain

    @property
    def values(self) -> dict[str, Any]:
        """The keys of all files."""
        return _merged(found for _, found in self.files)

    def lay_bases_below(self, merged: dict[str, Any], command_line: Mapping[str, Any]) -> dict[str, Any]:
        """Add the bases to `merged`, the keys of these files and of `command_line` (`--config`) as merged by Snakemake.

        A key of a base counts unless the file that extends it, a later file or the command line sets it. Raises a
        `GraceError` if `extends` is set, but not in one of these files: its path is relative to a file.
        """
        if EXTENDS in command_line or (EXTENDS in merged and not self._bases):
            raise GraceError(
                f"the key '{EXTENDS}' is read in configuration files only; give the file itself with --configfile"
            )
        out = {key: value for key, value in merged.items() if key != EXTENDS}
        for place in self._bases:
            above = _merged([*(found for _, found in self.files[place + 1 :]), dict(command_line)])
            out = laid_over(out, _without(self.files[place][1], above))
        return out

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


def _merged(layers: Iterable[dict[str, Any]]) -> dict[str, Any]:
    return functools.reduce(laid_over, layers, {})


def _without(base: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """The keys of `base` that `above` does not set."""
    out = {}
    for key, value in base.items():
        if key not in above:
            out[key] = value
        elif isinstance(value, dict) and isinstance(above[key], dict):
            out[key] = _without(value, above[key])
    return out


def _with_bases(path: Path) -> list[tuple[Path, dict[str, Any]]]:
    """A file and its keys, preceded by its base, the base of its base and so on: the lowest first."""
    chain: list[tuple[Path, dict[str, Any]]] = []
    seen: list[Path] = []
    while True:
        found = read_overlay(path)
        chain.insert(0, (path, found))
        seen.append(path.resolve())
        if EXTENDS not in found:
            return chain
        base = found.pop(EXTENDS)
        if not isinstance(base, str) or not base.strip():
            raise GraceError(f"{EXTENDS} in {path}: name one configuration file (got {base!r})")
        below = path.parent / os.path.expanduser(base)
        if not below.exists():
            raise GraceError(
                f"{EXTENDS} in {path}: configuration file {below} does not exist; the path is relative to {path.parent}/"
            )
        if below.resolve() in seen:
            raise GraceError(f"{EXTENDS} in {path}: {below} extends this file in turn; remove one of the two keys")
        path = below
