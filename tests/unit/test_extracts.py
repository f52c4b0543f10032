"""The report's table and figure as files of their own."""

from __future__ import annotations

import csv
import re
from xml.etree import ElementTree

import pytest

from grace.report import report
from grace.report.inputs import read_inputs
from grace.system.files import read_json
from grace.workflow.config import Report, load
from tests.unit.test_report import make_results


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    arguments = make_results(tmp_path_factory.mktemp("extracts"))
    report(**arguments, settings=Report())
    return arguments


def test_the_table_holds_every_value_of_every_system(made):
    with open(made["output"].with_name("table.csv"), newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    rows = {(row["system"], str(row["seed"])): row for row in read_json(made["results"] / "metrics.json")}
    assert len(lines) == len(rows) > 2
    for line in lines:
        row = rows[line["system"], line["seed"] or "None"]
        assert float(line["R@1"]) == row["R@1"] and float(line["intervals.R@5.high"]) == row["intervals"]["R@5"][1]


def test_the_figure_is_a_document_of_its_own(made):
    text = made["output"].with_name("recall.svg").read_text(encoding="utf-8")
    assert ElementTree.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
    assert "var(--" not in text and re.search(r"#[0-9a-f]{6}", text)
    labels = [system.label for system in read_inputs(load(made["config"]), made["results"]).systems]
    assert all(label.split(",")[0] in text for label in labels)


def test_the_record_of_the_report_names_the_runs_that_it_read(made):
    for name in ("index.html", "table.csv", "recall.svg"):
        record = read_json(made["output"].with_name(f"{name}.provenance.json"))
        assert "metrics.json" in record["inputs"] and any(path.endswith("/run.trec") for path in record["inputs"])
