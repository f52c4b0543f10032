"""What stands in a result about its making."""

from __future__ import annotations

import json

from grace import __version__
from grace.records.provenance import provenance, versions


def test_it_is_json_and_holds_settings_versions_and_threads(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    found = json.loads(json.dumps(provenance({"beams": 7})))
    assert found["settings"] == {"beams": 7} and found["threads"] == "3"
    assert found["versions"]["grace"] == __version__ and found["versions"]["numpy"]
    assert found["machine"]["cpus"] >= 1


def test_a_package_that_is_not_there_is_left_out(monkeypatch):
    monkeypatch.setattr("grace.records.provenance.PACKAGES", ("numpy", "no-such-package-here"))
    assert set(versions()) == {"grace", "python", "numpy"}
