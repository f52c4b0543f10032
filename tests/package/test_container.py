"""The container of envs/grace.def: its sections, its files, the same packages as .venv; built where that is possible."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from grace import __version__

ROOT = Path(__file__).resolve().parents[2]
DEFINITION = ROOT / "envs" / "grace.def"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SECTIONS = {"files", "post", "environment", "labels", "runscript", "test"}


def parsed(text: str) -> tuple[dict[str, str], dict[str, list[str]]]:
    """({keyword: value} of the header, {section: its lines}), comments left out; a section that comes twice is an error."""
    header: dict[str, str] = {}
    sections: dict[str, list[str]] = {}
    lines: list[str] | None = None
    for line in text.splitlines():
        if line.startswith("%"):
            assert line[1:] not in sections, f"{line} comes twice"
            lines = sections.setdefault(line[1:], [])
        elif line.strip() and not line.strip().startswith("#"):
            if lines is None:
                key, _, value = line.partition(": ")
                header[key] = value
            else:
                assert line.startswith("    "), f"not indented: {line}"
                lines.append(line.strip())
    return header, sections


HEADER, PARTS = parsed(DEFINITION.read_text())
COPIED = dict(line.split() for line in PARTS["files"])


def requirement_files(commands: list[str]) -> list[tuple[str, ...]]:
    """What each `pip install -r` among the commands installs, and with which checks."""
    words = [shlex.split(command) for command in commands if " -r " in command]
    checks = ("--require-hashes", "--no-deps")
    return [(line[line.index("-r") + 1], *(check for check in checks if check in line)) for line in words]


def test_the_sections_are_ones_that_apptainer_knows():
    assert set(PARTS) == SECTIONS
    assert all(PARTS.values())
    assert set(HEADER) == {"Bootstrap", "From"} and HEADER["Bootstrap"] == "docker"


def test_the_scripts_are_shell():
    for name in ("post", "environment", "runscript", "test"):
        done = subprocess.run(["sh", "-n"], input="\n".join(PARTS[name]), text=True, capture_output=True, check=False)
        assert done.returncode == 0, f"%{name}: {done.stderr}"


def test_python_is_that_of_the_conda_environments():
    found = re.fullmatch(r"python:(\d+\.\d+)-slim-\w+", HEADER["From"])
    conda = yaml.safe_load((ROOT / "envs" / "train.yaml").read_text())["dependencies"][0]
    assert conda == f"python ={found[1]}"
    assert found[1] in SpecifierSet(PROJECT["requires-python"])


def test_every_file_that_it_names_is_there():
    assert all((ROOT / name).exists() for name in COPIED)
    assert {"pyproject.toml", PROJECT["readme"], *PROJECT["license-files"]} <= set(COPIED)
    home = next(line.split()[1] for line in PARTS["post"] if line.startswith("cd "))
    assert {name: f"{home}/{name}" for name in COPIED} == COPIED
    for path, *_ in requirement_files(PARTS["post"]):
        assert (ROOT / path).is_file() and path.split("/")[0] in COPIED


def test_it_installs_what_make_installs():
    """The same files in the same order with the same checks, so the same pins."""
    recipe = re.search(r"^\.venv/run\.done:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)[1]
    made = requirement_files(recipe.splitlines())
    assert len(made) == 3
    assert requirement_files(PARTS["post"]) == made


def test_it_says_its_version():
    assert f"org.opencontainers.image.version {__version__}" in PARTS["labels"]


def test_what_it_copies_is_enough_to_build_the_package(tmp_path):
    """Its last command, with the files that it has."""
    ignored = shutil.ignore_patterns("__pycache__")
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name, **({"ignore": ignored} if copy is shutil.copytree else {}))
    command = PARTS["post"][-1]
    assert command == "python -m pip install --no-deps --no-build-isolation ."
    built = [
        sys.executable,
        *shlex.split(command)[1:-1],
        "--no-index",
        "--target",
        str(tmp_path / "target"),
        str(tmp_path),
    ]
    done = subprocess.run(built, text=True, capture_output=True, check=False, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "target" / "grace" / "report" / "template.html").is_file()


def test_it_can_be_built(tmp_path):
    """For real: minutes, some gigabytes."""
    binary = shutil.which("apptainer") or shutil.which("singularity")
    if binary is None:
        pytest.skip("neither apptainer nor singularity is on the PATH")
    image = tmp_path / "grace.sif"
    base = [binary, "pull", str(tmp_path / "base.sif"), f"docker://{HEADER['From']}"]
    pulled = subprocess.run(base, text=True, capture_output=True, check=False, timeout=600)
    if pulled.returncode != 0:
        pytest.skip(f"the base image cannot be had: {pulled.stderr.strip()[-300:]}")
    build = [binary, "build", str(image), str(DEFINITION)]
    built = subprocess.run(build, cwd=ROOT, text=True, capture_output=True, check=False, timeout=3600)
    assert built.returncode == 0, built.stdout[-3000:] + built.stderr[-3000:]
    done = subprocess.run([binary, "run", str(image), "--version"], cwd=tmp_path, text=True, capture_output=True)
    assert done.stdout == f"grace {__version__}\n", done.stderr
