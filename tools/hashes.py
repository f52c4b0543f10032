"""The sha256 of every published file of a pin, for pip's hash-checking mode.

Part of tools/pins.py. The hashes are kept in the requirement files themselves: `kept` reads them back, and uv looks up only new
or changed pins (`looked_up`) in the package index.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from pathlib import Path

from packaging.tags import Tag
from packaging.utils import canonicalize_name, parse_wheel_filename

Pin = tuple[str, str]
"""Name (canonical) and version."""


def kept(files: Iterable[Path]) -> dict[Pin, list[str]]:
    """{pin: sha256 (hex), sorted} of all pins with hashes in requirement files."""
    found: dict[Pin, list[str]] = {}
    for path in files:
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
        for name, version, hashes in re.findall(
            r"^([\w.-]+)==(\S+)((?: \\\n +--hash=sha256:\w+)+)", text, re.MULTILINE
        ):
            found[canonicalize_name(name), version] = sorted(re.findall(r"sha256:(\w+)", hashes))
    return found


def looked_up(pins: Iterable[Pin]) -> dict[Pin, list[str]]:
    """{pin: sha256 (hex), sorted} of the published files that this project can install, from the package index."""
    wanted = list(pins)
    if not wanted:
        return {}
    with tempfile.TemporaryDirectory() as folder:
        listed, lock = Path(folder) / "pins.txt", Path(folder) / "pylock.toml"
        listed.write_text("".join(f"{name}=={version}\n" for name, version in wanted), encoding="utf-8")
        command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-deps", "--universal"]
        command += ["--python-version", "3.11", "--format", "pylock.toml", "--output-file", str(lock), str(listed)]
        subprocess.run(command, check=True)
        packages = tomllib.loads(lock.read_text(encoding="utf-8"))["packages"]
    found = {}
    for package in packages:
        wheels = [wheel for wheel in package.get("wheels", []) if installable(wheel["url"].rsplit("/", 1)[1])]
        files = [*wheels, *([package["sdist"]] if "sdist" in package else [])]
        found[canonicalize_name(package["name"]), package["version"]] = sorted(f["hashes"]["sha256"] for f in files)
    return found


def installable(wheel: str) -> bool:
    """Whether a wheel is for Linux (glibc; x86_64 or aarch64) and CPython >= 3.11 with the GIL."""
    return any(_fits(tag) for tag in parse_wheel_filename(wheel)[3])


def _fits(tag: Tag) -> bool:
    linux = tag.platform.startswith("manylinux") and tag.platform.endswith(("x86_64", "aarch64"))
    if not (tag.platform == "any" or linux):
        return False
    if tag.interpreter.startswith("py3"):
        return True
    version = re.fullmatch(r"cp3(\d+)", tag.interpreter)
    return bool(version) and (tag.abi == "abi3" or (int(version[1]) >= 11 and not tag.abi.endswith("t")))
