"""The decoding benchmark on the report page: tables, figure, and what is said of a file that is none."""

from __future__ import annotations

import copy
import html
import re
from pathlib import Path

import pytest

from grace.report import report
from grace.report.decoding import FORMAT, read_benchmark, seconds, tables
from grace.report.decoding_figure import decoding_figure
from grace.system.errors import GraceError
from grace.system.files import write_json
from grace.workflow.config import Report
from tests.unit.test_report import Page, make_results


def _trie(structure: str, build: float, size: int, load: float) -> dict:
    return {
        "shape": "k256_L4", "identifiers": 1000, "structure": structure, "build_s": [build, 9 * build, 0.0], "bytes": size,
        "load_s": [load], "load_verified_s": [0.25],
    }  # fmt: skip


def _selection(way: str, step: float) -> dict:
    return {"shape": "k32_L5", "identifiers": 1000, "vocabulary": 50280, "way": way, "step_s": [[step]] * 4,
            "whole_s": [4 * step]}  # fmt: skip


def _search(search: str, seconds: float) -> dict:
    return {"model": "14M", "parameters": 14_200_000, "dtype": "float32", "queries": 4, "search": search,
            "seconds": [seconds], "same_share": 0.5}  # fmt: skip


def _dense(system: str, images: int, time: float) -> dict:
    return {"system": system, "images": images, "recall": 1.0, "effort": "<exact>", "one": {"p50_s": time, "p95_s": 2 * time},
            "batch": 64, "batch_s": 64 * time / 4, "bytes_an_image": 8.5, "constant_bytes": 64e6}  # fmt: skip


BENCHMARK = {
    "format": FORMAT, "machine": {"Processor": "a <processor>"}, "versions": {"torch": "2.13.0"}, "seconds": {"trie": 90.0},
    "parts": {
        "trie": [_trie("dictionaries", 2.0, 244_000, 1.5), _trie("marisa-trie", 0.5, 3_000, 0.002),
                 _trie("level order", 0.01, 8_200, 0.0015)],
        "selection": [_selection("Hugging Face over dictionaries", 0.3), _selection("grace", 0.05)],
        "end_to_end": [_search("Hugging Face with cache", 8.0), _search("grace", 4.0)],
        "dense": [_dense("FAISS flat", 1000, 0.02), _dense("FAISS flat", 10_000, 0.03), _dense("grace", 1000, 0.4)],
    },
    "crossover": {"said": "They cross at 5 images."},
    "roofline": {"rows": [{"queries": 1, "identifiers": 1000, "generative_s": 0.0046, "flat_s": 0.00004}]},
    "required": [{"claim": "build", "value": 200.0, "limit": 40, "at_least": True, "holds": True},
                 {"claim": "step", "value": 0.5, "limit": 0.25, "at_least": False, "holds": False}],
}  # fmt: skip


def test_tables_hold_the_medians_and_ratios_of_the_rows() -> None:
    shown = tables(BENCHMARK)
    assert shown["trie"][0]["build"] == ["2 s", "500 ms", "10 ms"]  # medians, not means
    assert shown["trie"][0]["bytes"] == ["244.0", "3.0", "8.2"]
    assert shown["trie"][0]["load"] == ["1.5 s", "2 ms", "1.5 ms"]
    assert shown["selection"][0]["times"] == ["300 ms", "50 ms"] and shown["selection"][0]["share"] == "1/6.0"
    times = dict(zip(shown["searches"], shown["end_to_end"][0]["times"], strict=True))
    assert times["Hugging Face with cache"] == ("2 s", "2x") and times["grace"] == ("1 s", "1x")
    assert times["Hugging Face without cache"] == ("–", "") and shown["end_to_end"][0]["same"] == "50 %"
    assert [row["images"] for row in shown["dense"]] == ["1,000", "1,000", "10,000"]
    assert shown["dense"][0]["p95"] == "40 ms" and shown["dense"][0]["batch"] == "5 ms"
    assert [row["holds"] for row in shown["required"]] == [True, False]


@pytest.mark.parametrize(("value", "said"), [(123.4, "123 s"), (2.0, "2 s"), (0.0123, "12.3 ms"), (4.2e-6, "4.2 µs")])
def test_seconds_in_the_unit_that_fits(value: float, said: str) -> None:
    assert seconds(value) == said


def test_the_page_shows_the_file_of_the_results_folder_and_a_named_one(tmp_path: Path) -> None:
    paths = make_results(tmp_path)
    report(**paths, settings=Report())
    without = paths["output"].read_text()
    assert 'id="decoding"' not in without
    write_json(paths["results"] / "decoding_benchmark.json", BENCHMARK)
    report(**paths, settings=Report())
    text = paths["output"].read_text()
    assert 'href="#decoding"' in text and "They cross at 5 images." in text and "&lt;exact&gt;" in text
    assert "a &lt;processor&gt;" in text
    page = Page(text)
    assert page.open == [] and 'scope="col"' in text
    said = html.unescape(re.sub(r"<[^>]+>", " ", text[text.index('id="decoding"') :]))
    assert "Building the trie" in said and "1/6.0" in said
    other = copy.deepcopy(BENCHMARK)
    other["crossover"]["said"] = "Elsewhere."
    write_json(tmp_path / "other.json", other)
    report(**paths, settings=Report(benchmark=str(tmp_path / "other.json")))
    assert "Elsewhere." in paths["output"].read_text()


def test_parts_that_were_not_run_are_left_out(tmp_path: Path) -> None:
    for part in BENCHMARK["parts"]:
        less = {**BENCHMARK, "parts": {part: BENCHMARK["parts"][part]}}
        figure = decoding_figure(less)
        assert (figure is None) == (part == "end_to_end")
        shown = tables(less)
        assert [name for name in BENCHMARK["parts"] if shown[name]] == [part]


def test_what_is_no_benchmark_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GraceError, match="decoding benchmark"):
        read_benchmark(str(tmp_path / "missing.json"), tmp_path)
    write_json(tmp_path / "decoding_benchmark.json", {**BENCHMARK, "format": "another"})
    with pytest.raises(GraceError, match="is not a decoding benchmark of this version"):
        read_benchmark("", tmp_path)
    broken = copy.deepcopy(BENCHMARK)
    del broken["parts"]["dense"][0]["recall"]
    with pytest.raises(GraceError, match="lacks 'recall'"):
        tables(broken)
