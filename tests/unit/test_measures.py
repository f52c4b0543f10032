"""Measures, the evaluate and metrics stages, and the table on the terminal."""

import io
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from grace.data.tables import write_dataset
from grace.evaluation import evaluate, metrics
from grace.evaluation.measures import MEASURES, gold_ranks, per_query
from grace.evaluation.stage import read_rows
from grace.evaluation.table import show
from grace.retrieval.runs import read_qrels, read_run, write_run
from grace.system.errors import GraceError
from grace.system.files import read_json, write_json
from grace.workflow.config import Evaluate

SETTINGS = Evaluate(resamples=200)


def tables(qrels: dict[str, str], answers: dict[str, list[str]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    run = [(query, doc, rank, -rank) for query, docs in answers.items() for rank, doc in enumerate(docs, start=1)]
    return (
        pd.DataFrame({"query_id": list(qrels), "doc_id": list(qrels.values()), "relevance": 1}),
        pd.DataFrame(run, columns=["query_id", "doc_id", "rank", "score"]),
    )


def oracle(gold: str, docs: list[str]) -> list[float]:
    place = docs.index(gold) + 1 if gold in docs else None
    return [*(float(place is not None and place <= k) for k in (1, 5, 10)), 1 / place if place and place <= 10 else 0.0]


def write_world(folder, answers, *, images=12, captions=2, scheme="atomic", **report):
    """A data set of `images` test images (and one of train) and a run that answers query `q{image}_{caption}`."""
    dataset = folder / "dataset"
    dataset.mkdir(parents=True, exist_ok=True)
    rows = [("t0", "t0_0", "train"), *((f"i{i}", f"q{i}_{c}", "test") for i in range(images) for c in range(captions))]
    captions_table = pd.DataFrame(rows, columns=["image_id", "caption_id", "split"]).assign(text="a picture")
    images_table = captions_table[["image_id", "split"]].drop_duplicates().assign(source_split="")
    images_table["file"] = images_table.image_id + ".png"
    summary = {"name": "scenes", "source": "scenes", "images_dir": "images", "license": "none"}
    write_dataset(dataset, images_table, captions_table, summary)
    queries = {query: image for image, query, split in rows if split == "test"}
    run = {query: [(doc, -float(n)) for n, doc in enumerate(docs)] for query, docs in answers(queries).items()}
    write_run(folder / "run.trec", run, scheme)
    memorization = {"correct": 3, "images": 4, "rate": 0.75}
    retrieval = {"scheme": scheme, "seed": 0, "queries": len(queries), "valid_rate": 1.0, "depth": 10}
    write_json(folder / "retrieval.json", retrieval | {"memorization": memorization} | report)
    files = {"run": folder / "run.trec", "retrieval": folder / "retrieval.json", "output": folder / "metrics.json"}
    return {"dataset": dataset, "settings": SETTINGS, **files}


def perfect(queries):
    return {query: [image] for query, image in queries.items()}


def half_right(queries):
    """Every third query is answered wrongly first, every seventh not at all."""
    wrong = {"i0": "i1"}
    return {q: [wrong.get(i, "i0")] * (n % 3 == 0) + [i] for n, (q, i) in enumerate(queries.items()) if n % 7}


def test_values_against_slow_oracle():
    rng = np.random.default_rng(0)
    docs = [f"d{n}" for n in range(20)]
    qrels = {f"q{n}": docs[rng.integers(20)] for n in range(100)}
    answers = {query: rng.permutation(docs)[: rng.integers(1, 15)].tolist() for query in qrels}
    values = per_query(*tables(qrels, answers))
    assert values.index.tolist() == list(qrels) and tuple(values.columns) == MEASURES
    np.testing.assert_allclose(values.to_numpy(), [oracle(qrels[query], answers[query]) for query in qrels])


def test_gold_ranks():
    ranks = gold_ranks(*tables({"a": "x", "b": "y", "c": "z"}, {"b": ["x", "y"], "a": ["y"]}))
    assert ranks.to_dict() == {"a": 0, "b": 2, "c": 0}


def test_defect_02_an_unanswered_query_is_a_miss():
    qrels, run = tables({"a": "x", "b": "y", "c": "z", "d": "z"}, {"a": ["x"]})
    values = per_query(qrels, run)
    assert values.index.tolist() == ["a", "b", "c", "d"]
    assert values.mean().tolist() == [0.25] * 4


def test_defect_02_evaluate_divides_by_the_qrels(tmp_path):
    row = evaluate(**write_world(tmp_path, lambda queries: {"q0_0": ["i0"], "q1_0": ["i0", "i1"]}))
    assert row["queries"] == 24 and row["unanswered_queries"] == 22
    assert row["R@1"] == pytest.approx(1 / 24) and row["R@5"] == pytest.approx(2 / 24)


def test_defect_02_a_run_without_any_answer_scores_zero(tmp_path):
    row = evaluate(**write_world(tmp_path, lambda queries: {}))
    assert [row[name] for name in MEASURES] == [0.0] * 4


def test_defect_03_captions_of_the_same_text_stay_apart(tmp_path):
    # All captions have one text, so a table keyed by `image#caption` would hold one query a picture. Of each picture's
    # four, one is answered rightly: 1/4, where the collapsed table says 0 or 1.
    def first_of_four(queries):
        return {q: [i] if q.endswith("_0") else ["i0" if i != "i0" else "i1"] for q, i in queries.items()}

    row = evaluate(**write_world(tmp_path, first_of_four, captions=4))
    assert row["queries"] == 48
    assert row["R@1"] == pytest.approx(12 / 48)


def test_evaluate_writes_the_row(tmp_path):
    (tmp_path / "other").mkdir()
    weak = write_world(tmp_path / "other", lambda queries: {q: ["i0"] for q in queries}, scheme="baseline")
    row = evaluate(**write_world(tmp_path, perfect), baseline=weak["run"])
    assert json.loads((tmp_path / "metrics.json").read_text()) == row
    assert (row["dataset"], row["system"], row["seed"], row["queries"]) == ("scenes", "atomic", 0, 24)
    assert (
        row["R@1"] == 1.0
        and row["intervals"]["R@1"] == [1.0, 1.0]
        and row["memorization"] == 0.75
        and row["valid_rate"] == 1.0
    )
    assert row["setting"] == "transductive corpus, unseen queries" and row["confidence"] == 0.95
    versus = row["versus_baseline"]["R@1"]
    assert versus["difference"] == pytest.approx(11 / 12)
    assert versus["interval"][0] <= versus["difference"] <= versus["interval"][1]
    assert versus["p_value"] < 0.02
    assert evaluate(**weak)["versus_baseline"] is None


def test_the_same_seed_gives_the_same_file(tmp_path):
    world = write_world(tmp_path, lambda queries: {q: [i] for n, (q, i) in enumerate(queries.items()) if n % 3})
    evaluate(**world)
    first = (tmp_path / "metrics.json").read_bytes()
    evaluate(**world)
    assert (tmp_path / "metrics.json").read_bytes() == first
    other = write_world(tmp_path, half_right, images=40)
    first, second = (
        evaluate(**other | {"settings": Evaluate(resamples=15, seed=seed)})["intervals"] for seed in (0, 1)
    )
    assert first != second


@pytest.mark.parametrize(
    ("answers", "report", "said"),
    [
        (lambda queries: {"stranger": ["i0"]}, {}, "query stranger is not in the qrels"),
        (lambda queries: {"q0_0": ["t0"]}, {}, "image t0 .query q0_0. is not in the gallery"),
        (perfect, {"queries": 23}, "has 23 queries, the qrels .* 24"),
        (perfect, {"depth": 5}, "set retrieve.depth to 10"),
        (
            half_right,
            {"failed_queries": 0},
            "has no answer for 4 queries, retrieval report .* states 0: the run is truncated",
        ),
        (lambda queries: {}, {"failed_queries": 1}, "has no answer for 24 queries"),
    ],
)
def test_evaluate_refuses_in_words_and_writes_nothing(tmp_path, answers, report, said):
    world = write_world(tmp_path, answers, **report)
    with pytest.raises(GraceError, match=said):
        evaluate(**world)
    assert not (tmp_path / "metrics.json").exists()


def test_a_run_of_another_system_is_refused(tmp_path):
    world = write_world(tmp_path, perfect)
    report = read_json(world["retrieval"], "report")
    write_json(world["retrieval"], report | {"scheme": "string"})
    with pytest.raises(GraceError, match=r"is of atomic, retrieval report .* of string"):
        evaluate(**world)


def test_a_query_with_two_images_is_refused():
    qrels = pd.DataFrame({"query_id": ["a", "a"], "doc_id": ["x", "y"], "relevance": [1, 1]})
    with pytest.raises(GraceError, match="query a has 2 relevant images"):
        per_query(qrels, tables({}, {"a": ["x"]})[1])


def test_missing_and_broken_inputs(tmp_path):
    world = write_world(tmp_path, perfect)
    (tmp_path / "retrieval.json").write_text('{"scheme": "atomic"')
    with pytest.raises(GraceError, match="not valid JSON"):
        evaluate(**world)
    (tmp_path / "retrieval.json").write_text('{"scheme": "atomic"}')
    with pytest.raises(GraceError, match=r"key.s. seed, queries, valid_rate, memorization are missing"):
        evaluate(**world)


def test_metrics_and_table(tmp_path):
    worlds = {
        system: write_world(tmp_path / system, answers, scheme=system, **report)
        for system, answers, report in (
            ("structured", lambda queries: {}, {}),
            ("baseline", perfect, {"memorization": None, "seed": None}),
            ("atomic", perfect, {}),
        )
    }
    for system, world in worlds.items():
        evaluate(**world, baseline=None if system == "baseline" else worlds["baseline"]["run"])
    files = [world["output"] for world in worlds.values()]
    rows = metrics(files=files, output=tmp_path / "all.json")
    assert json.loads((tmp_path / "all.json").read_text()) == rows
    assert [row["system"] for row in rows] == ["structured", "baseline", "atomic"]

    out = io.StringIO()
    show(tmp_path / "all.json", console=Console(file=out, width=100))
    text = out.getvalue()
    lines = [line for line in text.splitlines() if line.strip()]
    systems = [line.split()[0] for line in lines if line.split()[0] in ("baseline", "structured", "atomic")]
    assert systems == ["baseline", "structured", "atomic"]
    assert all(
        words in " ".join(text.split()) for words in ("transductive corpus, unseen queries", "24 queries", "Split test")
    )
    assert (
        "-100.0*" in text
        and "p 0.001" in text
        and "corrected for 2 systems per measure (Holm)" in " ".join(text.split())
    )
    assert "random answers would score 8.3 / 41.7 / 83.3" in " ".join(text.split())
    assert "100.0-100.0" in text and "75.0" in text


def test_table_fits_a_terminal_of_80_columns(tmp_path):
    world = write_world(tmp_path, perfect, scheme="structured")
    evaluate(**world, baseline=world["run"])
    out = io.StringIO()
    show(tmp_path / "metrics.json", console=Console(file=out, width=80))
    assert "…" not in out.getvalue() and "structured" in out.getvalue() and "100.0-100.0" in out.getvalue()


def test_metrics_refuses_two_of_the_same_and_other_files(tmp_path):
    world = write_world(tmp_path, perfect)
    evaluate(**world)
    with pytest.raises(GraceError, match="hold the same system"):
        metrics(files=[world["output"], world["output"]], output=tmp_path / "all.json")
    with pytest.raises(GraceError, match="are missing; make the file again"):
        metrics(files=[world["retrieval"]], output=tmp_path / "all.json")
    assert not (tmp_path / "all.json").exists()


def test_read_back_what_the_stage_reads(tmp_path):
    world = write_world(tmp_path, perfect)
    assert len(read_qrels(world["dataset"] / "qrels.trec")) == len(read_run(world["run"])) == 24


def test_evaluation_and_report_start_without_torch():
    code = "import sys, grace.evaluation.table, grace.report, ir_measures; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"R@1": "high"}, "R@1: Input should be a valid number"),
        ({"intervals": {}}, "intervals.R@1: Field required"),
        ({"intervals": {name: [0.1] for name in ("R@1", "R@5", "R@10", "MRR@10")}}, "intervals.R@1: List should have"),
        ({"versus_baseline": {"R@1": 1}}, "versus_baseline"),
        ({"seed": "a"}, "seed: Input should be a valid integer"),
        ({"dataset": []}, "dataset: Input should be a valid string"),
    ],
)
def test_a_row_of_another_form_is_refused(tmp_path, change, said):
    row = evaluate(**write_world(tmp_path, perfect))
    write_json(tmp_path / "metrics.json", [row])
    assert read_rows(tmp_path / "metrics.json") == [row]
    write_json(tmp_path / "metrics.json", [row | change])
    with pytest.raises(GraceError, match=f"row 1: {said}"):
        read_rows(tmp_path / "metrics.json")
