"""A finished small run, copies of it to break, and how often every fault is tried.

GRACE_FAULTS=N repeats every fault N times (`make faults`: five); without it each quick one is tried once. Random choices come
from a seed that is the test's name, so that a failure can be had again.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.faults.runs import SMALL, WHOLE, Run

REPEATS = int(os.environ.get("GRACE_FAULTS", "0"))


def finished(folder: Path, values: dict) -> Run:
    run = Run(folder, values=values)
    run.configure()
    code, said = run()
    assert code == 0, said[-8000:]
    assert json.loads((run.results / "metrics.json").read_text())[1]["system"] == "numeric"
    return run


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory) -> Run:
    """A finished run that nobody disturbs. It is never changed: faults are done to copies."""
    return finished(tmp_path_factory.mktemp("undisturbed"), SMALL)


@pytest.fixture(scope="session")
def whole(tmp_path_factory) -> Run:
    """The same through every stage, the captioner too."""
    return finished(tmp_path_factory.mktemp("whole"), WHOLE)


@pytest.fixture
def run(undisturbed, tmp_path) -> Run:
    """A copy of the finished run, with Snakemake's memory of it."""
    shutil.copytree(undisturbed.folder, tmp_path / "run", symlinks=True)
    return Run(tmp_path / "run")


@pytest.fixture
def fresh(tmp_path) -> Run:
    """A folder where nothing was run yet; the run goes through every stage."""
    (tmp_path / "fresh").mkdir()
    run = Run(tmp_path / "fresh", values=WHOLE)
    run.configure()
    return run


@pytest.fixture
def chance(request) -> random.Random:
    return random.Random(request.node.name)


@pytest.fixture(autouse=True)
def no_orphans(tmp_path) -> Iterator[None]:
    """What a failed test leaves at work in its own folder is ended."""
    yield
    for process in psutil.process_iter(["cwd"]):
        if process.info["cwd"] and Path(process.info["cwd"]).is_relative_to(tmp_path):
            process.kill()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "repeat" in metafunc.fixturenames:
        metafunc.parametrize("repeat", range(max(1, REPEATS)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without GRACE_FAULTS the long ones are left to `make faults`."""
    for item in items:
        if REPEATS == 0 and item.get_closest_marker("long"):
            item.add_marker(pytest.mark.skip(reason="takes minutes; run it with: make faults"))
