"""A finished small run, copies of it to break, and what must hold after every fault.

GRACE_FAULTS=N repeats every fault N times (`make faults`: five); without it each is tried once, and only the quick ones.
Random choices come from a seed that the test's name holds, so that a failure can be had again.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
REPEATS = int(os.environ.get("GRACE_FAULTS", "0"))
OUTPUT = "results-tiny"
FINAL = (f"{OUTPUT}/metrics.json", f"{OUTPUT}/scenes/numeric/seed0/run.trec", f"{OUTPUT}/scenes/baseline/run.trec")
# the shortest way through every rule: one scheme that starts from nothing
SMALL = {
    "schemes": ["numeric"],
    "train": {"start_from": "scratch", "steps": 60, "save_every": 5, "log_every": 10},
    "captioner": {"steps": 20, "save_every": 5},
    "evaluate": {"resamples": 50},
    "report": {"examples": 1},
}


class Run:
    """Snakemake in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.results = folder / OUTPUT

    def configure(self, **changed: object) -> None:
        """Write the overlay: SMALL, and other values of some sections."""
        values = {**SMALL, **{name: {**SMALL.get(name, {}), **value} for name, value in changed.items()}}
        (self.folder / "small.yaml").write_text(yaml.safe_dump(values))

    def start(self, *arguments: str, limits: str = "") -> subprocess.Popen:
        """Start a run; `limits` are shell commands before it, such as `ulimit -f 100`."""
        command = [sys.executable, "-m", "snakemake", "--directory", str(self.folder), "--cores", "2", *arguments]
        command += ["--configfile", "config/tiny.yaml", str(self.folder / "small.yaml")]
        if limits:
            command = ["bash", "-c", f'{limits}; exec "$@"', "bash", *command]
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
        with open(self.folder / "said.log", "w", encoding="utf-8") as log:
            return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)

    def __call__(self, *arguments: str, limits: str = "") -> tuple[int, str]:
        """(exit code, what was said) of a run that is left alone."""
        return self.start(*arguments, limits=limits).wait(timeout=900), self.said()

    def said(self) -> str:
        return (self.folder / "said.log").read_text(encoding="utf-8", errors="replace")

    def unlock(self) -> None:
        code, said = self("--unlock")
        assert code == 0, said

    def stages(self, snakemake: subprocess.Popen) -> list[psutil.Process]:
        """The processes of the stages that a run has at work."""
        try:
            children = psutil.Process(snakemake.pid).children(recursive=True)
            return [child for child in children if child.cmdline()[1:3] == ["-m", "grace"]]
        except psutil.Error:
            return []

    def verify(self) -> tuple[int, str]:
        """(exit code, what was said) of `python -m grace verify`."""
        done = subprocess.run(
            [sys.executable, "-m", "grace", "verify", OUTPUT],
            cwd=self.folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True, capture_output=True, check=False,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    def must_end_as(self, undisturbed: Run) -> None:
        """The rerun finishes; its scores and rankings are those of the undisturbed run, and every record is true."""
        code, said = self()
        assert code == 0, said[-8000:]
        for name in FINAL:
            assert (self.folder / name).read_bytes() == (undisturbed.folder / name).read_bytes(), f"{name} differs"
        code, said = self.verify()
        assert code == 0, said
        hidden = [path for path in self.results.rglob(".*") if path.name not in (".snakemake_timestamp", ".grace")]
        assert hidden == [], "half-written files are left"


def in_words(run: Run) -> str:
    """The last line of every log that tells of a failure; at least one must, and no log may end in a traceback."""
    told = []
    for log in (run.results / "logs").rglob("*.log"):
        lines = log.read_text(errors="replace").strip().splitlines()
        if lines and lines[-1].startswith(("error: ", "ended: ")):
            told.append(lines[-1])
    return "\n".join(told)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory) -> Run:
    """A finished run that nobody disturbs. It is never changed: faults are done to copies."""
    run = Run(tmp_path_factory.mktemp("undisturbed"))
    run.configure()
    code, said = run()
    assert code == 0, said[-8000:]
    assert json.loads((run.results / "metrics.json").read_text())[1]["system"] == "numeric"
    return run


@pytest.fixture
def run(undisturbed, tmp_path) -> Run:
    """A copy of the finished run, with Snakemake's memory of it."""
    shutil.copytree(undisturbed.folder, tmp_path / "run", symlinks=True)
    return Run(tmp_path / "run")


@pytest.fixture
def fresh(tmp_path) -> Run:
    """A folder where nothing was run yet."""
    (tmp_path / "fresh").mkdir()
    run = Run(tmp_path / "fresh")
    run.configure()
    return run


@pytest.fixture
def chance(request) -> random.Random:
    return random.Random(request.node.name)


@pytest.fixture(autouse=True)
def no_orphans(request) -> Iterator[None]:
    """Whatever a test leaves running in its own folder is ended."""
    yield
    for process in psutil.process_iter(["cmdline", "cwd"]):
        folder = request.node.funcargs.get("tmp_path")
        if folder and str(folder) in str(process.info["cwd"]) and process.pid != os.getpid():
            process.send_signal(signal.SIGKILL)


def wait_for_stage(run: Run, snakemake: subprocess.Popen, stage: str) -> psutil.Process | None:
    """The process of a stage, as soon as there is one; None if the run ends before."""
    while snakemake.poll() is None:
        for process in run.stages(snakemake):
            try:
                if process.cmdline()[3] == stage:
                    return process
            except (psutil.Error, IndexError):
                continue
        time.sleep(0.02)
    return None


def seconds_of(run: Run) -> dict[str, float]:
    """How long every stage took, as its sidecar says (the longest, where it ran more than once)."""
    found: dict[str, float] = {}
    for path in run.results.rglob("*provenance.json"):
        record = json.loads(path.read_text())
        found[record["stage"]] = max(found.get(record["stage"], 0.0), record["seconds"])
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "repeat" in metafunc.fixturenames:
        metafunc.parametrize("repeat", range(max(1, REPEATS)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without GRACE_FAULTS the long ones are left to `make faults`."""
    for item in items:
        if REPEATS == 0 and item.get_closest_marker("long"):
            item.add_marker(pytest.mark.skip(reason="takes minutes; run it with: make faults"))
