"""A real conda where there is none, from the package index alone, and a local channel with this Python in it.

The conda is the one (24.7.1) that the package conda-lock vendors, with the solver of python-sat, which needs no compiler; what
it imports is pinned in requirements/pins.toml, group conda_test. The channel holds `python` (a link to the running
interpreter and the pyvenv.cfg that makes an environment's prefix a venv of it) and `pip` (the wheel that comes with Python).
Everything is written below one folder.

    python tests/conda/local_conda.py FOLDER      then: export PATH=FOLDER/conda/bin:$PATH
"""

from __future__ import annotations

import bz2
import ensurepip
import hashlib
import io
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

PINS = Path(__file__).resolve().parents[2] / "requirements" / "pins.toml"
CONDA_LOCK = "conda-lock"
SUBDIR = {"x86_64": "linux-64", "aarch64": "linux-aarch64"}[platform.machine()]

CONDA = """#!{python}
import sys
if __name__ == "__main__":
    from conda.cli.main import main
    sys.exit(main())
"""
# Snakemake sources bin/activate of conda's prefix; the one of the venv would ignore the environment that it names.
ACTIVATE = """_conda_out="$('{conda}' shell.posix activate "$@")" || return $?
eval "$_conda_out"
unset _conda_out
"""


def make_conda(folder: Path) -> Path:
    """Make `folder`/conda and `folder`/channels/conda-forge; return the folder of the command `conda`."""
    pins = tomllib.loads(PINS.read_text(encoding="utf-8"))["conda_test"]
    needs = [f"{name}=={version}" for name, version in pins.items() if name != CONDA_LOCK]
    channels = folder / "channels"
    write_channel(channels / "conda-forge")
    home = folder / "conda"
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    python = home / "bin" / "python"
    site = Path(_output(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    unpacked = folder / "conda-lock"
    _pip(python, "--no-deps", "--target", str(unpacked), f"{CONDA_LOCK}=={pins[CONDA_LOCK]}")
    shutil.copytree(unpacked / "conda_lock" / "_vendor" / "conda", site / "conda")
    for source in (site / "conda").rglob("*.py"):
        text = source.read_text(encoding="utf-8")
        if "conda_lock._vendor.conda" in text:
            source.write_text(text.replace("conda_lock._vendor.conda", "conda"), encoding="utf-8")
    shutil.rmtree(unpacked)
    _pip(python, *needs)
    (home / "conda-meta").mkdir()
    (home / "conda-meta" / "history").touch()
    command = home / "bin" / "conda"
    command.write_text(CONDA.format(python=python))
    command.chmod(0o755)
    (home / "bin" / "activate").write_text(ACTIVATE.format(conda=command))
    settings = {
        "channel_priority": "strict",
        "solver": "classic",
        "sat_solver": "pysat",
        "auto_update_conda": False,
        "notify_outdated_conda": False,
        "number_channel_notices": 0,
        "report_errors": False,
        "changeps1": False,
        "pkgs_dirs": [str(home / "pkgs")],
        "envs_dirs": [str(home / "envs")],
        # the environment files name conda-forge: here it is the local folder of that name
        "channel_alias": f"file://{channels}",
        "default_channels": [],
    }
    (home / ".condarc").write_text(json.dumps(settings))  # JSON is YAML
    return command.parent


def write_channel(folder: Path) -> None:
    """Write a conda channel with the packages `python` and `pip`."""
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    real = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    config = (
        f"home = {os.path.dirname(real)}\ninclude-system-site-packages = false\n"
        f"version = {platform.python_version()}\nexecutable = {real}\n"
    )
    python = {
        "pyvenv.cfg": config.encode(),
        f"bin/python{version}": Path(real),
        "bin/python": Path(f"python{version}"),
        "bin/python3": Path(f"python{version}"),
        f"lib/python{version}/site-packages/README.txt": b"an environment of the tests\n",
    }
    with zipfile.ZipFile(_pip_wheel()) as wheel:
        pip = {f"site-packages/{name}": wheel.read(name) for name in wheel.namelist() if not name.endswith("/")}
    pip_version = _pip_wheel().name.split("-")[1]
    packages = {
        SUBDIR: _package(folder / SUBDIR, "python", platform.python_version(), [], python),
        "noarch": _package(folder / "noarch", "pip", pip_version, ["python >=3"], pip),
    }
    for subdir, package in packages.items():
        index = {"info": {"subdir": subdir}, "packages": package, "packages.conda": {}, "removed": []}
        (folder / subdir / "repodata.json").write_text(json.dumps({**index, "repodata_version": 1}))


def _package(folder: Path, name: str, version: str, depends: list[str], files: dict[str, bytes | Path]) -> dict:
    """Write one .tar.bz2 package (bytes: a file's content, a path: where a link points); its line of the index."""
    folder.mkdir(parents=True)
    noarch = folder.name == "noarch"
    index = {"name": name, "version": version, "build": "local_0", "build_number": 0, "depends": depends}
    index |= {"subdir": folder.name, "timestamp": 1700000000000, "license": "test"}
    index |= {"noarch": "python"} if noarch else {"arch": platform.machine(), "platform": "linux"}
    paths = []
    for path, content in files.items():
        link = isinstance(content, Path)
        data = b"" if link else content
        entry = {"_path": path, "path_type": "softlink" if link else "hardlink"}
        paths.append({**entry, "sha256": hashlib.sha256(data).hexdigest(), "size_in_bytes": len(data)})
    info: dict[str, object] = {
        "index.json": index,
        "about.json": {},
        "paths.json": {"paths": paths, "paths_version": 1},
    }
    if noarch:
        metadata = {"noarch": {"type": "python", "entry_points": ["pip = pip._internal.cli.main:main"]}}
        info["link.json"] = {**metadata, "package_metadata_version": 1}
    content = {f"info/{key}": json.dumps(value).encode() for key, value in info.items()}
    content["info/files"] = "".join(f"{path}\n" for path in files).encode()
    archive = folder / f"{name}-{version}-local_0.tar.bz2"
    with bz2.open(archive, "wb", compresslevel=1) as raw, tarfile.open(fileobj=raw, mode="w|") as tar:
        for path, data in {**content, **files}.items():
            member = tarfile.TarInfo(path)
            member.mtime = 1700000000
            if isinstance(data, Path):
                member.type, member.linkname, member.mode = tarfile.SYMTYPE, str(data), 0o777
                tar.addfile(member)
            else:
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    written = archive.read_bytes()
    sums = {"md5": hashlib.md5(written).hexdigest(), "sha256": hashlib.sha256(written).hexdigest()}
    return {archive.name: {**index, **sums, "size": len(written)}}


def _pip_wheel() -> Path:
    """The wheel of pip that Python brings (or, on Debian, that its package python3-pip-whl does)."""
    folders = (Path(ensurepip.__file__).parent / "_bundled", Path("/usr/share/python-wheels"))
    found = [wheel for folder in folders for wheel in sorted(folder.glob("pip-*.whl"))]
    if not found:
        raise FileNotFoundError("this Python brings no wheel of pip; on Debian: apt install python3-venv")
    return found[0]


def _pip(python: Path, *arguments: str) -> None:
    subprocess.run(
        [str(python), "-m", "pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check", *arguments],
        check=True,
    )


def _output(*command: str | Path) -> str:
    return subprocess.run([*map(str, command)], check=True, text=True, capture_output=True).stdout


if __name__ == "__main__":
    print(make_conda(Path(sys.argv[1]).resolve()))
