"""What stands in a result about its making."""

from __future__ import annotations

import json
import time

from grace import __version__
from grace.config import Retrieve
from grace.provenance import machine, provenance, versions


def test_it_is_json_and_holds_settings_versions_and_time():
    found = json.loads(json.dumps(provenance(Retrieve(beams=7), started=time.perf_counter() - 2)))
    assert found["settings"]["beams"] == 7
    assert found["versions"]["grace"] == __version__ and found["versions"]["numpy"]
    assert 2 <= found["seconds"] < 60


def test_a_package_that_is_not_there_is_left_out(monkeypatch):
    monkeypatch.setattr("grace.provenance.PACKAGES", ("numpy", "no-such-package-here"))
    assert set(versions()) == {"grace", "python", "numpy"}


def test_the_machine_tells_its_cores_and_threads(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert machine()["cores"] >= 1 and machine()["threads"] == "3"
