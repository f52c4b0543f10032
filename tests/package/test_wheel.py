"""The package built and installed as a user gets it: what is in the wheel, and its commands, far from the checkout.

The environments here have no access to the checkout. The dependencies are those of the running Python, by a .pth file.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

from grace import __version__
from grace.system.version import checked_out
from grace.workflow.stages import STAGES

ROOT = Path(__file__).resolve().parents[2]


def files_of_the_package() -> set[str]:
    """Every file of grace/ that belongs to the repository, new ones included."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "grace"]
    try:
        listed = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True).stdout.split("\n")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"the files of the package are known from git alone: {error}")
    return {name for name in listed if name and (ROOT / name).is_file()}


def copy_of_the_project(folder: Path) -> Path:
    """What the build reads, copied: setuptools leaves build/ and *.egg-info beside its sources."""
    for name in [*files_of_the_package(), "pyproject.toml", "README.md", "LICENSE"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


def clean_environment(home: Path) -> dict[str, str]:
    """No PYTHONPATH, no settings of the workflow that may run these tests."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "GRACE", "VIRTUAL_ENV"))}
    return kept | {"HOME": str(home), "OMP_NUM_THREADS": "1", "PIP_NO_INPUT": "1"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built through a source distribution, so that one that lacks something fails too."""
    source = copy_of_the_project(tmp_path_factory.mktemp("source"))
    output = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(output), str(source)]
    done = subprocess.run(command, env=clean_environment(source), text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(output.glob("*.tar.gz"))) == 1
    return next(output.glob("*.whl"))


class Installed:
    """A virtual environment with the package, and a folder to run its commands in."""

    def __init__(self, folder: Path) -> None:
        self.prefix, self.folder, self.home = folder / "environment", folder / "elsewhere", folder / "home"
        for path in (self.folder, self.home):
            path.mkdir(parents=True)
        venv.create(self.prefix, symlinks=True)
        self.packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(self.prefix)}))

    def lend_dependencies(self) -> None:
        """Of the running environment: its own .pth files, an editable install of this package among them, are not read."""
        lent = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
        (self.packages / "lent.pth").write_text("".join(f"{path}\n" for path in sorted(lent)))

    def run(self, command: str, *arguments: str | Path) -> subprocess.CompletedProcess:
        """A command of this environment, in a folder that holds nothing of ours."""
        return subprocess.run(
            [self.prefix / "bin" / command, *map(str, arguments)],
            cwd=self.folder, env=clean_environment(self.home), text=True, capture_output=True, timeout=300, check=False,
        )  # fmt: skip


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Installed:
    made = Installed(tmp_path_factory.mktemp("wheel"))
    command = [sys.executable, "-m", "pip", "--python", str(made.prefix / "bin/python"), "install", "--quiet"]
    command += ["--no-deps", "--no-index", str(wheel)]
    done = subprocess.run(command, env=clean_environment(made.home), text=True, capture_output=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    made.lend_dependencies()
    return made


def passed(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def contents(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def test_the_wheel_holds_every_file_of_the_package_and_no_other(wheel):
    inside = {name for name in contents(wheel) if ".dist-info/" not in name}
    ours = files_of_the_package()
    assert {name for name in ours if not name.endswith(".py")} >= {
        "grace/py.typed",
        "grace/report/template.html",
        "grace/data/download/sources.csv",
    }
    assert inside == ours


def test_what_the_wheel_says_of_itself(wheel):
    about = metadata(wheel)
    assert (about["Name"], about["Version"], about["Requires-Python"]) == ("grace-retrieval", __version__, ">=3.11")
    assert set(about.get_all("Provides-Extra")) == {"train", "workflow", "slurm", "offline", "serve"}
    assert "Typing :: Typed" in about.get_all("Classifier")
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in contents(wheel))


def test_the_package_is_the_installed_one(installed):
    where = passed(installed.run("python", "-c", "import grace; print(grace.__file__)")).strip()
    assert Path(where) == installed.packages / "grace" / "__init__.py"


def test_help_lists_every_stage(installed):
    listed = {line.split()[0] for line in passed(installed.run("grace", "--help")).splitlines() if line.strip()}
    assert set(STAGES) <= listed
    assert "{captions}" in passed(installed.run("grace", "search", "--help"))


def test_the_version_has_no_commit_outside_of_a_checkout(installed):
    assert passed(installed.run("grace", "--version")) == f"grace {__version__}\n"
    assert passed(installed.run("python", "-m", "grace", "--version")) == f"grace {__version__}\n"


def test_a_configuration_is_checked(installed):
    shutil.copy(ROOT / "config" / "tiny.yaml", installed.folder / "mine.yaml")
    passed(installed.run("grace", "config", "--check", "mine.yaml"))
    (installed.folder / "wrong.yaml").write_text("train: {stepz: 3}\n")
    done = installed.run("grace", "config", "--check", "wrong.yaml")
    assert done.returncode == 2 and "stepz" in done.stderr


def test_the_table_of_downloads_is_inside(installed):
    done = installed.run("grace", "download", "no_such_data")
    assert done.returncode == 2 and "flickr30k" in done.stderr, done.stderr


def test_a_report_is_written(installed, tmp_path):
    specification = importlib.util.spec_from_file_location("made_results", ROOT / "tests/unit/test_report.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    made = module.make_results(tmp_path)
    options = [part for name, path in made.items() for part in (f"--{name}", path)]
    passed(installed.run("grace", "report", *options, "--settings", json.dumps({"title": "From a wheel"})))
    assert "From a wheel" in made["output"].read_text()


def test_an_editable_install_runs_the_checkout_from_anywhere(tmp_path):
    """As `make install` does it: without the network, and with the commit in the version."""
    source = copy_of_the_project(tmp_path / "source")
    made = Installed(tmp_path / "editable")
    made.lend_dependencies()
    options = ["--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--editable", source]
    passed(made.run("python", "-m", "pip", "install", *options))
    assert f"{' '.join(options[1:5])} ." in (ROOT / "Makefile").read_text()
    passed(subprocess.run(["git", "init", "--quiet", source], text=True, capture_output=True))
    committed = [
        "git",
        "-C",
        source,
        "-c",
        "user.name=a",
        "-c",
        "user.email=a@b",
        "commit",
        "--quiet",
        "--allow-empty",
        "-m",
        "one",
    ]
    passed(subprocess.run(committed, text=True, capture_output=True))
    where = passed(made.run("python", "-c", "import grace; print(grace.__file__)")).strip()
    assert Path(where) == source / "grace" / "__init__.py"
    assert passed(made.run("grace", "--version")) == f"grace {__version__} (commit {checked_out(source)})\n"
