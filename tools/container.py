"""The definition of the container that runs the workflow's stages: envs/grace.def, for Apptainer (or Singularity).

Part of tools/pins.py. The container has the packages that `make install` puts into .venv, from the same requirement files,
and this package. Build it in the repository's root, which contains the files to copy:
    apptainer build envs/grace.sif envs/grace.def
"""

from __future__ import annotations

SOURCE = "/opt/grace"  # the repository's files inside the container

# What the package is built from, and the requirement files, without tests and results.
COPIED = ("LICENSE", "README.md", "grace", "pyproject.toml", "requirements")


def definition(python: str, version: str) -> str:
    """The text of envs/grace.def for this version of Python and this version of the package."""
    copied = "\n".join(f"    {name} {SOURCE}/{name}" for name in COPIED)
    return f"""# Made by `python tools/pins.py --write`: edit tools/container.py, and the pins in requirements/pins.toml.
# Build it in the repository's root: apptainer build envs/grace.sif envs/grace.def
Bootstrap: docker
From: python:{python}-slim-bookworm

%files
{copied}

%post
    set -eu
    export PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
    cd {SOURCE}
    python -m pip install --require-hashes --no-deps -r requirements/run.txt
    python -m pip install -r requirements/torch.txt
    python -m pip install --require-hashes --no-deps -r requirements/no-deps.txt
    python -m pip install --no-deps --no-build-isolation .

%environment
    # Apptainer mounts the user's home: packages that were installed there stay out
    export PYTHONNOUSERSITE=1
    export LC_ALL=C.UTF-8

%labels
    org.opencontainers.image.title grace-retrieval
    org.opencontainers.image.version {version}
    org.opencontainers.image.licenses Apache-2.0

%runscript
    exec grace "$@"

%test
    grace --version
"""
