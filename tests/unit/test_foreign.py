"""Runs of other methods: a row like any other, checked against the data set, in metrics, table and report."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pandas as pd
import pytest

from grace.data.tables import load_dataset
from grace.evaluation import evaluate, metrics
from grace.evaluation.comparison import KEY as COMPARISON
from grace.evaluation.comparison import holm
from grace.evaluation.measures import MEASURES
from grace.evaluation.table import show
from grace.records.sidecars.sidecar import read_sidecar
from grace.report import report
from grace.system.errors import GraceError
from grace.system.files import read_json, write_json
from grace.workflow.config import Config, Evaluate, Report, load, parse
from tests.unit.test_cli import grace, refused
from tests.unit.test_report import Page, make_results

SETTINGS = Evaluate(resamples=100)


@pytest.fixture
def world(tmp_path):
    """Results of a run with the baseline, two schemes, and a run of another method that finds every second image."""
    arguments = make_results(tmp_path)
    dataset = arguments["results"] / "scenes" / "dataset"
    captions = load_dataset(dataset).captions_of("test")
    lines = []
    for number, row in enumerate(captions.itertuples()):
        if number >= 4:  # the first four queries are not answered
            other = "i0" if row.image_id != "i0" else "i1"
            answers = [row.image_id, other] if number % 2 else [other, row.image_id]
            lines += [f"{row.caption_id} Q0 {doc} {rank} {1 / rank} tag" for rank, doc in enumerate(answers, start=1)]
    path = tmp_path / "mine.trec"
    path.write_text("\n".join(lines) + "\n")
    return {**arguments, "dataset": dataset, "run": path, "folder": tmp_path}


def evaluated(world, name="mine"):
    """The row of the run, and metrics.json of all systems with it."""
    data = world["dataset"].parent
    own = data / "runs" / name / "metrics.json"
    row = evaluate(
        dataset=world["dataset"], run=world["run"], name=name, baseline=data / "baseline/run.trec", output=own,
        settings=SETTINGS,
    )  # fmt: skip
    systems = [data / place / "metrics.json" for place in ("baseline", "atomic/seed0", "structured/seed0")]
    return row, metrics(files=[*systems, own], output=world["results"] / "metrics.json")


def test_the_row_against_a_loop(world):
    row, _ = evaluated(world)
    captions = load_dataset(world["dataset"]).captions_of("test")
    answers: dict[str, list[str]] = {}
    for line in world["run"].read_text().splitlines():
        query, _, doc, *_ = line.split()
        answers.setdefault(query, []).append(doc)
    hits = [answers.get(c.caption_id, [None])[0] == c.image_id for c in captions.itertuples()]
    found = [c.image_id in answers.get(c.caption_id, []) for c in captions.itertuples()]
    assert 0 < sum(hits) < sum(found) == len(captions) - 4
    assert row["R@1"] == pytest.approx(sum(hits) / len(captions))
    assert row["R@5"] == pytest.approx(sum(found) / len(captions))
    assert row["MRR@10"] == pytest.approx((sum(hits) + sum(found)) / 2 / len(captions))
    assert (row["system"], row["seed"], row["queries"], row["unanswered_queries"]) == ("mine", None, len(captions), 4)
    assert row["memorization"] is row["valid_rate"] is None and row["depth"] == 2
    assert row["setting"] == "not known: a run of another method"
    digest = hashlib.sha256(world["run"].read_bytes()).hexdigest()
    assert row["run_file"] == {"path": str(world["run"]), "sha256": digest}


def test_the_same_run_scores_the_same_as_a_system_of_ours(world):
    """A run of ours, given as another method's, differs from its own row only in what only we know."""
    own = world["dataset"].parent / "atomic/seed0"
    world["run"] = own / "run.trec"
    row, rows = evaluated(world, "copy")
    ours = next(other for other in rows if other["system"] == "atomic")
    same = [*MEASURES, "dataset", "queries", "confidence", "split", "gallery", "unanswered_queries"]
    assert {key: row[key] for key in same} == {key: ours[key] for key in same}
    values = [pd.read_parquet(place / "per_query.parquet") for place in (own, own.parents[1] / "runs/copy")]
    pd.testing.assert_frame_equal(*values)
    for measure in MEASURES:
        one, other = ours[COMPARISON][measure], rows[-1][COMPARISON][measure]
        assert {**one, "p_holm": None} == {**other, "p_holm": None}


def test_it_enters_holms_correction_of_all_systems(world):
    before = {row["system"]: row for row in read_json(world["results"] / "metrics.json")}
    _, rows = evaluated(world)
    own = {row["system"]: row[COMPARISON] for row in rows if row["system"] != "baseline"}
    assert list(own) == ["atomic", "structured", "mine"] and all(of["systems"] == 3 for of in own.values())
    for measure in MEASURES:
        adjusted = holm([of[measure]["p_value"] for of in own.values()])
        assert [of[measure]["p_holm"] for of in own.values()] == pytest.approx(adjusted)
    for row in rows:
        if row["system"] != "mine":  # the rest of our own rows is as it was
            old = before[row["system"]]
            assert {**row, COMPARISON: None} == {**old, COMPARISON: None}
            assert row.get(COMPARISON, {}).get("R@1", {}).get("p_value") == old.get(COMPARISON, {}).get("R@1", {}).get(
                "p_value"
            )


def test_the_table_says_what_it_is(world, capsys):
    evaluated(world)
    show(world["results"] / "metrics.json")
    text = capsys.readouterr().out
    line = next(line for line in text.splitlines() if line.startswith("mine "))
    assert line.split()[-2:] == ["-", "-"] and "0.0" not in line.split()[-2:]
    said = " ".join(text.split())
    assert "It has no answer for 4 of 32 queries; they count as misses. It keeps at most 2 images per query" in said
    assert "what its model has seen is not known" in said and "corrected for 3 systems per measure (Holm)" in said
    assert text.index("\natomic") < text.index("\nmine ")


def test_the_report_shows_it(world):
    evaluated(world)
    config = load(world["config"]).model_dump(mode="json")
    write_json(world["config"], config | {"runs": {"mine": str(world["run"])}})
    arguments = {key: world[key] for key in ("config", "results", "output")}
    report(**arguments, settings=Report(examples=1))
    page = Page(world["output"].read_text(encoding="utf-8"))
    assert page.open == [] and "no answer for 4 of 32 queries" in page.text
    assert "mine for " in page.text and "corrected for 3 systems (Holm)" in page.text
    assert "No training curve of mine" not in page.text
    html = world["output"].read_text(encoding="utf-8")
    rows = [row.split("</tr>")[0] for row in html.split("<tr>") if "</span>mine</th>" in row]
    recall, versus, retrieval = rows  # and none of identifiers
    assert recall.count("<td>–</td>") == 2 and "−" in versus
    # beams, hypotheses, invalid, duplicates, time, time per query are not known; depth and unanswered queries are
    assert retrieval.count("<td>–</td>") == 6 and "<td>2</td>" in retrieval and "<td>4</td>" in retrieval


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda w: w["run"].write_text(w["run"].read_text().replace("0.5", "0.25")), "mine.trec changed after it was evalua"),
        (lambda w: w["run"].unlink(), "run is missing: .*mine.trec"),
        (lambda w: w.update(runs={}), "row of the run mine, which `runs` in the configuration does not list"),
        (lambda w: w.update(runs={"mine": str(w["run"]), "more": "m"}), "no row of the run more; evaluate it"),
    ],
)  # fmt: skip
def test_a_report_of_other_runs_than_were_evaluated_is_refused(world, change, said):
    evaluated(world)
    world["runs"] = {"mine": str(world["run"])}
    change(world)
    config = load(world["config"]).model_dump(mode="json")
    write_json(world["config"], config | {"runs": world["runs"]})
    with pytest.raises(GraceError, match=said):
        report(**{key: world[key] for key in ("config", "results", "output")}, settings=Report(examples=0))
    assert not world["output"].exists()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("c0 Q0 i0 1 0.5 t\nc99 Q0 i0 1 0.5 t", "line 2: query c99 is not in the qrels, which has ids such as c0"),
        ("c0 Q0 i0 1 0.5 t\n\nc32 Q0 i0 1 0.5 t\nc33 Q0 i0 1 0.5 t", r"line 3: query c32 is not in the qrels \(2 such lines\)"),
        ("c0 Q0 i0 1 0.5 t\nc0 Q0 i0.png 2 0.4 t", "line 2: image i0.png is not in the gallery, which has ids such as i0"),
        ("c0 Q0 t 1 0.5 t", "line 1: image t is not in the gallery"),  # an image of the split train
        ("c0 Q0 i0 1 0.5 t\nc0 Q0 i0 2 0.4 t", "line 2: query c0 has document i0 twice"),
        ("c0 Q0 i0 1 0.5 t\nc0 Q0 i1 3 0.4 t", "line 2: rank 3 of query c0 where 2 is expected"),
        ("c0 Q0 i0 2 0.5 t\nc0 Q0 i1 1 0.4 t", "line 1: the score of rank 2 of query c0 is not below"),
        ("c0 Q0 i0 1 0.5 t\nc0 Q0 i1 2 nan t", "line 2: score nan is not a finite number"),
        ("c0 Q0 i0 1 0.5", "line 1: 5 fields where 6 are expected"),
        ("", "is empty; it answers no query"),
    ],
)  # fmt: skip
def test_a_run_that_does_not_fit_is_refused_with_its_line(world, line, said):
    world["run"].write_text(line + "\n")
    with pytest.raises(GraceError, match=f"run .*mine.trec[, ]*{said}"):
        evaluated(world)
    assert not (world["dataset"].parent / "runs").exists()


def test_a_name_or_a_retrieval_report_is_needed(world):
    given = {
        "dataset": world["dataset"],
        "run": world["run"],
        "output": world["folder"] / "m.json",
        "settings": SETTINGS,
    }
    for both in ({}, {"name": "mine", "retrieval": world["dataset"].parent / "atomic/seed0/retrieval.json"}):
        with pytest.raises(GraceError, match="give --retrieval for a system of this workflow, or --name"):
            evaluate(**given, **both)
    with pytest.raises(GraceError, match="the name 'atomic' of a run is that of a system of this workflow"):
        evaluate(**given, name="atomic")


def test_the_command_records_the_file(world):
    output = world["folder"] / "out" / "metrics.json"
    given = (
        "--dataset",
        world["dataset"],
        "--run",
        world["run"],
        "--output",
        output,
        "--settings",
        '{"resamples": 20}',
    )
    done = grace("evaluate", *given, "--name", "mine")
    assert done.returncode == 0, done.stderr
    assert "no answer for 4 of 32 queries; they count as misses" in done.stdout
    record = read_sidecar(output.with_name("metrics.json.provenance.json"))
    digest = hashlib.sha256(world["run"].read_bytes()).hexdigest()
    assert record["inputs"]["run"]["sha256"] == digest == json.loads(output.read_text())["run_file"]["sha256"]
    assert "mine.trec, line 1: query c99" in refused_run(world, "c99 Q0 i0 1 0.5 t\n", given)


def refused_run(world, text, given) -> str:
    world["run"].write_text(text)
    return refused(grace("evaluate", *given, "--name", "mine"))


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"run": {"a": "b"}}, "unknown key 'run'; did you mean 'runs'?"),
        ({"runs": "a.trec"}, "runs: a run needs a name; write {mine: a.trec}"),
        ({"runs": {1: "a"}}, "runs: the name 1 of a run is not a string; put it in quotes"),
        ({"runs": {"my run": "a"}}, "runs: the name 'my run' of a run may contain letters, digits, - and _ only"),
        ({"runs": {"-x": "a"}}, "must begin with a letter or a digit"),
        ({"runs": {"a/b": "a"}}, "may contain letters, digits, - and _ only"),
        ({"runs": {"a" * 41: "a"}}, "at most 40 characters"),
        ({"runs": {"baseline": "a"}}, "the name 'baseline' of a run is that of a system of this workflow"),
        ({"runs": {"Atomic": "a"}}, "the name 'Atomic' of a run is that of a system of this workflow"),
        ({"runs": {"a": "x", "A": "y"}}, "the names 'a' and 'A' differ in upper and lower case only"),
        ({"runs": {"a": " "}}, "the run 'a' has no path"),
        ({"runs": {"a": {"path": "x"}}}, "runs.a: Input should be a valid string"),
        ({"runs": None}, "write its keys below it, or leave it out"),
    ],
)
def test_names_and_paths_are_checked_when_the_configuration_is_read(values, said):
    with pytest.raises(GraceError) as problem:
        parse(Config, values, "configuration")
    assert said in str(problem.value)


def test_files_of_runs_laid_over_each_other_add_up(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("a", "b"):
        Path(tmp_path / f"{name}.yaml").write_text(f"runs: {{{name}: ~/{name}.trec}}\n")
    config = load(tmp_path / "a.yaml", tmp_path / "b.yaml")
    assert config.runs == {"a": f"{tmp_path}/a.trec", "b": f"{tmp_path}/b.trec"}
