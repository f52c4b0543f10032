"""The decorator of stages: what a call reads, writes and is told stands in the record, with nobody listing it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from grace.records.sidecars.recording import also_read
from grace.records.stage import stage
from grace.system.errors import GraceError
from grace.workflow.config import Retrieve


@stage("trie")
def copy(
    *, source: Path, other: Path | None, output: Path, state: Path, settings: Retrieve, word: str, seed: int = 3
) -> str:
    also_read("more", source.with_name("more.txt"))
    output.write_text(source.read_text() + word)
    return word


@pytest.fixture
def given(tmp_path):
    (tmp_path / "source.txt").write_text("a")
    (tmp_path / "more.txt").write_text("b")
    places = {"source": tmp_path / "source.txt", "other": None, "output": tmp_path / "out.txt", "state": tmp_path / "s"}
    return {**places, "settings": Retrieve(beams=4), "word": "!"}


def record_of(path: Path) -> dict:
    return json.loads(path.with_name(path.name + ".provenance.json").read_text())


def test_a_call_is_recorded_by_its_parameters(given, capsys):
    assert copy(**given) == "!"
    record = record_of(given["output"])
    assert set(record["inputs"]) == {"source", "more"} and record["seed"] == 3 and record["stage"] == "trie"
    assert record["settings"] == {**Retrieve(beams=4).model_dump(mode="json"), "word": "!"}
    said = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf"trie: reads {given['source']}; \d+ threads?", said[0])
    assert re.fullmatch(rf"trie: wrote {given['output']} \(.*; peak memory [\d,]+ MB\) in \d+\.\d s", said[-1])


def test_an_input_that_was_edited_is_refused_and_a_failure_leaves_no_record(given, tmp_path):
    copy(**given)
    given["output"].write_text("edited")
    with pytest.raises(GraceError, match=r"out\.txt was changed after the stage trie wrote it"):
        copy(**{**given, "source": given["output"], "output": tmp_path / "next.txt"})
    assert not (tmp_path / "next.txt").exists() and not (tmp_path / "next.txt.provenance.json").exists()


def test_only_the_first_process_of_several_speaks_and_records(given, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    copy(**given)
    assert capsys.readouterr().out == "" and not given["output"].with_name("out.txt.provenance.json").exists()


def test_every_stage_of_the_package_is_recorded():
    """Every function that a command of the workflow calls carries the decorator."""
    from grace.captions.pseudo_queries import pseudo_queries
    from grace.data import SOURCES, source
    from grace.evaluation import evaluate, metrics
    from grace.evaluation.baselines import baseline
    from grace.identifiers import identifiers
    from grace.identifiers.tree import trie
    from grace.model.tokenizer import tokenizer
    from grace.report import report
    from grace.retrieval.stage import retrieve
    from grace.towers import tower
    from grace.towers.embeddings import encode
    from grace.training.captioner import captioner
    from grace.training.stage import train
    from grace.workflow.stages import STAGES

    functions = [
        tokenizer,
        tower,
        encode,
        captioner,
        pseudo_queries,
        identifiers,
        trie,
        train,
        retrieve,
        baseline,
        evaluate,
    ]
    functions += [metrics, report, *(source(name) for name in SOURCES)]
    assert all(hasattr(function, "__wrapped__") for function in functions)
    assert {function.__name__ for function in functions} - set(SOURCES) == set(STAGES) - {"dataset"}
