"""Versions: requirements/ and envs/ are what pins.toml says, exactly pinned, with one torch."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PIN = re.compile(r"^[a-z0-9-]+==[0-9][A-Za-z0-9.]*$")

spec = importlib.util.spec_from_file_location("pins", ROOT / "tools" / "pins.py")
pins = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pins)


def lines(name: str) -> list[str]:
    return [line for line in (ROOT / "requirements" / name).read_text().splitlines() if not line.startswith("#")]


def conda(name: str) -> list[str]:
    """The pip section of one environment."""
    return yaml.safe_load((ROOT / "envs" / f"{name}.yaml").read_text())["dependencies"][-1]["pip"]


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the files are made with Python 3.11")
def test_the_files_have_not_drifted_from_the_pins():
    for name, text in pins.files(pins.read_pins()).items():
        assert (ROOT / name).read_text() == text, f"{name}: run python tools/pins.py --write"


def test_every_line_is_an_exact_pin():
    for line in [*lines("run.txt"), *lines("dev.txt"), *conda("train"), *conda("infer")]:
        assert PIN.match(line), line


def test_the_environments_agree_with_the_requirements():
    run = set(lines("run.txt"))
    assert set(conda("train")) <= run
    assert set(conda("infer")) <= run


def test_direct_pins_are_everywhere_they_belong():
    groups = pins.read_pins()
    for name, version in groups["model"].items():
        line = f"{pins.canonical(name)}=={version}"
        assert line in lines("run.txt") and line in conda("train") and line in conda("infer")
    assert any(line.startswith("deepspeed==") for line in conda("train"))
    assert not any(line.startswith("deepspeed==") for line in conda("infer"))
    assert set(lines("run.txt")).isdisjoint(lines("dev.txt"))


def test_the_offline_parts_find_what_they_need_in_run():
    """They are installed without dependencies; of gguf's own, every one is there anyway."""
    needed = {"numpy", "pyyaml", "requests", "tqdm"}
    assert needed <= {line.split("==")[0] for line in lines("run.txt")}
    assert all(PIN.match(line) for line in lines("offline.txt")) and len(lines("offline.txt")) == 5
    assert set(lines("offline.txt")).isdisjoint([*lines("run.txt"), *lines("dev.txt")])


def test_open_flamingo_comes_without_its_dependencies():
    assert lines("no-deps.txt") == ["open_flamingo==2.0.1"]
    assert not any("flamingo" in line for line in [*lines("run.txt"), *conda("train"), *conda("infer")])
    for name in ("train", "infer"):
        script = (ROOT / "envs" / f"{name}.post-deploy.sh").read_text()
        assert "pip install --no-deps open_flamingo==2.0.1" in script
