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
HASH = re.compile(r" +--hash=sha256:[0-9a-f]{64}")
HASHED = ("run.txt", "dev.txt", "no-deps.txt", "slurm.txt")

spec = importlib.util.spec_from_file_location("pins", ROOT / "tools" / "pins.py")
pins = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pins)


def blocks(name: str) -> list[list[str]]:
    """[[pin, its hashes as written]] of a requirement file."""
    text = "\n".join(line for line in (ROOT / "requirements" / name).read_text().splitlines() if line[:1] != "#")
    return [block.split(" \\\n") for block in re.split(r"\n(?! )", text)]


def lines(name: str) -> list[str]:
    return [block[0] for block in blocks(name)]


def conda(name: str) -> list[str]:
    """The pip section of one environment."""
    return yaml.safe_load((ROOT / "envs" / f"{name}.yaml").read_text())["dependencies"][-1]["pip"]


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="the files are made with Python 3.11")
def test_the_files_have_not_drifted_from_the_pins():
    for name, text in pins.files(pins.read_pins()).items():
        assert (ROOT / name).read_text() == text, f"{name}: run python tools/pins.py --write"


def test_every_line_is_an_exact_pin():
    for line in [*lines("run.txt"), *lines("torch.txt"), *lines("dev.txt"), *conda("train"), *conda("infer")]:
        assert PIN.match(line), line


@pytest.mark.parametrize("name", HASHED)
def test_every_pin_has_the_hashes_of_its_files(name):
    """pip takes a file with hashes only if all its pins have them."""
    for pin, *hashes in blocks(name):
        assert hashes and all(HASH.fullmatch(line) for line in hashes), pin


def test_only_torch_has_no_hashes():
    assert [line.split("==")[0] for line in lines("torch.txt")] == ["torch", "torchvision"]


def test_the_index_of_torch_goes_everywhere():
    """The one place for another CUDA."""
    url = "https://download.pytorch.org/whl/cu130"
    made = pins.files(pins.read_pins() | {"torch_index": url})
    assert made["requirements/torch.txt"].splitlines()[1] == f"--extra-index-url {url}"
    for name in ("train", "infer"):
        assert yaml.safe_load(made[f"envs/{name}.yaml"])["dependencies"][-1]["pip"][0] == f"--extra-index-url {url}"
    assert not any(url in text for name, text in made.items() if name in {f"requirements/{file}" for file in HASHED})


def test_which_files_of_a_package_are_listed():
    usual = ("x-1-py3-none-any.whl", "x-1-cp39-abi3-manylinux_2_17_x86_64.manylinux2014_x86_64.whl")
    ours = ("x-1-cp311-cp311-manylinux_2_28_aarch64.whl", "x-1-cp314-cp314-manylinux_2_28_x86_64.whl")
    assert all(pins.hashes.installable(name) for name in (*usual, *ours))
    old, free = "x-1-cp310-cp310-manylinux_2_28_x86_64.whl", "x-1-cp314-cp314t-manylinux_2_28_x86_64.whl"
    foreign = ("x-1-cp312-cp312-win_amd64.whl", "x-1-cp312-cp312-musllinux_1_2_x86_64.whl")
    assert not any(pins.hashes.installable(name) for name in (old, free, *foreign))


def test_hashes_are_read_back_from_the_files(tmp_path):
    path = tmp_path / "some.txt"
    known = {("a-b", "1.0"): ["0" * 64, "1" * 64], ("c", "2"): ["2" * 64]}
    path.write_text(pins.HEADER + pins.hashed({"a_b": "1.0", "c": "2"}, known) + pins.hashed({"d": "3"}, {}))
    assert pins.hashes.kept([path, tmp_path / "none.txt"]) == known


def test_the_environments_agree_with_the_requirements():
    run = {*lines("run.txt"), *lines("torch.txt")}
    assert set(conda("train")) <= run
    assert set(conda("infer")) <= run


def test_direct_pins_are_everywhere_they_belong():
    groups = pins.read_pins()
    for name, version in groups["model"].items():
        line = f"{pins.canonical(name)}=={version}"
        assert line in lines("run.txt") + lines("torch.txt") and line in conda("train") and line in conda("infer")
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
        assert "pip install --no-deps" in script and "\nopen_flamingo==2.0.1 \\\n    --hash=sha256:" in script
