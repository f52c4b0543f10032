"""Runs of other methods as systems of the workflow: inputs and options of the rule that evaluates them."""

from __future__ import annotations

import shlex
from types import SimpleNamespace

import pytest

from grace.rules.inputs import own_files
from grace.rules.runs import described_by, foreign_systems, retrieval_of, run_of
from grace.workflow.config import Config

CONFIG = Config(runs={"mine": "my runs/a.trec", "b-2": "/abs/b.trec"})


def of(system: str) -> SimpleNamespace:
    return SimpleNamespace(system=system)


def test_systems_are_named_in_the_order_of_the_configuration() -> None:
    assert foreign_systems(CONFIG) == ["runs/mine", "runs/b-2"] and foreign_systems(Config()) == []


@pytest.mark.parametrize("system", ["baseline", "atomic/seed0"])
def test_a_system_of_ours_has_its_run_and_report_in_the_results(system) -> None:
    assert run_of(CONFIG, "out/d")(of(system)) == f"out/d/{system}/run.trec"
    report = retrieval_of("out/d")(of(system))
    assert report == f"out/d/{system}/retrieval.json"
    said = described_by(of(system), SimpleNamespace(retrieval="a b/retrieval.json"))
    assert shlex.split(said) == ["--retrieval", "a b/retrieval.json"]


def test_a_run_of_another_method_is_read_where_it_is() -> None:
    for name, path in CONFIG.runs.items():
        (found,) = run_of(CONFIG, "out/d")(of(f"runs/{name}"))
        assert found == path and found.flags["local"]  # a module's prefix leaves it alone
        assert retrieval_of("out/d")(of(f"runs/{name}")) == []
        assert described_by(of(f"runs/{name}"), SimpleNamespace(retrieval=[])) == f"--name {name}"


def test_a_name_that_the_configuration_lacks_is_a_file_that_nobody_makes() -> None:
    assert run_of(CONFIG, "out/d")(of("runs/gone")) == "out/d/runs/gone/run.trec"


def test_the_report_reads_the_runs() -> None:
    assert own_files(CONFIG, "report") == list(CONFIG.runs.values())
