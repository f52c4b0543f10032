"""The pipeline under `--use-conda`, for real: both environments made by Snakemake from envs/ as they are, models trained in
one and used in the other.

Takes some minutes and 2 GB, most of it torch twice. Run it: python -m pytest tests/conda
It is skipped, saying why, where the environments cannot be made; with CI set, as in .ci/run, that is a failure.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TRAINING = {"tower", "encode", "captioner", "train"}
# one scheme is enough to cross from one environment into the other and back
SMALL = {"schemes": ["atomic"], "report": {"examples": 1}}


def no_environments(why: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(f"CI is set, and the conda environments cannot be made: {why}")
    pytest.skip(f"the conda environments cannot be made: {why}")


@pytest.fixture(scope="module")
def conda(tmp_path_factory) -> Path:
    """The folder of a command `conda` that finds Python 3.11: made here, so that no conda need be installed."""
    if sys.version_info[:2] != (3, 11):
        no_environments(f"envs/ want Python 3.11, this is {platform.python_version()}")
    specification = importlib.util.spec_from_file_location("local_conda", Path(__file__).with_name("local_conda.py"))
    local_conda = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(local_conda)
    try:
        return local_conda.make_conda(tmp_path_factory.mktemp("conda"))
    except subprocess.CalledProcessError as error:
        no_environments(f"the package index did not give a conda ({error})")
    except FileNotFoundError as error:
        no_environments(str(error))


@pytest.fixture(scope="module")
def run(conda, tmp_path_factory) -> Path:
    """The folder of a finished run under conda, with the environments in `envs/`."""
    folder = tmp_path_factory.mktemp("run")
    overlay = folder / "small.json"
    overlay.write_text(json.dumps(SMALL))
    # conda writes into its user's home; the jobs' python must be the environments', not the tests'
    home = folder / "home"
    home.mkdir()
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "CONDA_PREFIX")}
    path = os.pathsep.join([str(conda), str(Path(sys.executable).parent), os.environ["PATH"]])
    environment |= {"HOME": str(home), "PATH": path, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    environment["PIP_NO_COMPILE"] = "1"  # what is imported compiles itself; all of torch, twice, takes minutes
    # pip's cache lies in the home too, and holds what the tests' own environment was made of
    cache = subprocess.run([sys.executable, "-m", "pip", "cache", "dir"], text=True, capture_output=True, check=True)
    environment["PIP_CACHE_DIR"] = cache.stdout.strip()
    command = [sys.executable, "-m", "snakemake", "--directory", str(folder), "--cores", "2", "--use-conda"]
    command += ["--conda-prefix", str(folder / "envs"), "--configfile", "config/tiny.yaml", str(overlay)]
    done = subprocess.run(command, cwd=ROOT, env=environment, text=True, capture_output=True, timeout=1500)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-8000:]
    return folder


@pytest.fixture(scope="module")
def prefixes(run) -> dict[str, Path]:
    """{name in the environment's file: its prefix}."""
    made = {path.read_bytes(): path.with_suffix("") for path in (run / "envs").glob("*.yaml")}
    return {name: made[(ROOT / "envs" / f"{name}.yaml").read_bytes()] for name in ("train", "infer")}


def test_the_environments_are_made_of_the_files_as_they_are(prefixes):
    for prefix in prefixes.values():
        assert (prefix / "conda-meta" / "history").is_file()
        # open_flamingo comes by the script that Snakemake runs after conda, not by the list of packages
        assert list(prefix.glob("lib/python3.11/site-packages/open_flamingo/__init__.py"))


def test_every_stage_ran_in_its_environment(run, prefixes):
    seen = set()
    for path in (run / "results-tiny").rglob("*provenance.json"):
        record = json.loads(path.read_text())
        name = "train" if record["stage"] in TRAINING else "infer"
        assert record["environment"]["kind"] == "conda", path
        assert record["environment"]["name"] == f"grace-{name}", path
        assert Path(record["environment"]["prefix"]) == prefixes[name], path
        assert ("deepspeed" in record["versions"]) == (name == "train"), path
        seen.add(record["stage"])
    assert seen >= TRAINING | {
        "dataset",
        "tokenizer",
        "identifiers",
        "trie",
        "retrieve",
        "baseline",
        "evaluate",
        "report",
    }


def test_the_inference_environment_has_no_deepspeed(prefixes):
    """And the training one has: the same line, which imports it, ends in the one and not in the other."""
    ends = {}
    for name, prefix in prefixes.items():
        find = "import importlib.util as u, sys; sys.exit(0 if u.find_spec('deepspeed') else 3)"
        ends[name] = subprocess.run([str(prefix / "bin" / "python"), "-c", find], check=False).returncode
    assert ends == {"train": 0, "infer": 3}


def test_the_run_is_whole(run):
    done = subprocess.run(
        [sys.executable, "-m", "grace", "verify", "results-tiny"],
        cwd=run, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert [row["system"] for row in json.loads((run / "results-tiny" / "metrics.json").read_text())] == [
        "baseline",
        "atomic",
    ]
