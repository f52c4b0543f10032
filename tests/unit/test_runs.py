"""TREC runs: order, ties, round trip, and one clear line for every bad file."""

import numpy as np
import pytest

from grace.retrieval.runs import read_qrels, read_run, write_run
from grace.system.errors import GraceError


def test_ranks_follow_score_then_document(tmp_path):
    path = tmp_path / "run.trec"
    write_run(path, {"q2": [("c", 0.5), ("b", 2.0), ("a", 0.5)], "q1": [("z", -1.0)]}, tag="atomic")
    assert [line.split()[:4] for line in path.read_text().splitlines()] == [
        ["q2", "Q0", "b", "1"],
        ["q2", "Q0", "a", "2"],
        ["q2", "Q0", "c", "3"],
        ["q1", "Q0", "z", "1"],
    ]
    assert {line.split()[5] for line in path.read_text().splitlines()} == {"atomic"}


def test_round_trip_against_slow_oracle(tmp_path):
    rng = np.random.default_rng(0)
    rows = {
        f"q{query}": [
            (f"d{doc}", float(np.float32(score)))
            for doc, score in zip(rng.permutation(30)[:size], rng.integers(0, 4, size) / 3, strict=True)
        ]
        for query, size in enumerate(rng.integers(1, 12, 50))
    }
    write_run(tmp_path / "run.trec", rows, tag="t")
    table = read_run(tmp_path / "run.trec")
    for query, pairs in rows.items():
        expected = [doc for doc, _ in sorted(pairs, key=lambda pair: (-pair[1], pair[0]))]
        found = table[table.query_id == query]
        assert found.doc_id.tolist() == expected
        assert found["rank"].tolist() == list(range(1, len(pairs) + 1))
        np.testing.assert_allclose(found.score, [dict(pairs)[doc] for doc in expected], atol=1e-5)


def test_equal_scores_fall_by_the_least_step_that_32_bits_keep(tmp_path):
    write_run(tmp_path / "run.trec", {"q": [(f"d{n}", -3.7) for n in range(9)]}, tag="t")
    score = read_run(tmp_path / "run.trec").score.to_numpy()
    as_trec_eval = score.astype(np.float32)
    assert (np.diff(as_trec_eval) < 0).all()
    assert as_trec_eval[0] == np.float32(-3.7)
    assert (as_trec_eval[1:] == np.nextafter(as_trec_eval[:-1], np.float32(-np.inf))).all()


def test_an_untied_score_keeps_its_value(tmp_path):
    write_run(tmp_path / "run.trec", {"q": [("a", 0.1), ("b", -123.456789), ("c", 0.0)]}, tag="t")
    assert read_run(tmp_path / "run.trec").score.tolist() == [float(np.float32(x)) for x in (0.1, 0.0, -123.456789)]


def test_a_query_without_documents_has_no_lines_and_an_empty_run_reads(tmp_path):
    write_run(tmp_path / "run.trec", {"q": []}, tag="t")
    table = read_run(tmp_path / "run.trec")
    assert table.empty and list(table.columns) == ["query_id", "doc_id", "rank", "score", "tag"]


def test_a_run_of_the_size_of_coco_reads_back(tmp_path):
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((25_000, 10)).tolist()
    rows = {f"q{query}": [(f"d{doc}", score) for doc, score in enumerate(line)] for query, line in enumerate(scores)}
    write_run(tmp_path / "run.trec", rows, tag="t")
    assert len(read_run(tmp_path / "run.trec")) == 250_000


@pytest.mark.parametrize(
    ("rows", "tag", "said"),
    [
        ({"q": [("a b", 1.0)]}, "t", "white space"),
        ({"q 1": [("a", 1.0)]}, "t", "white space"),
        ({"q": [("a", 1.0)]}, "two words", "white space"),
        ({"q": [("a", float("nan"))]}, "t", "not a finite"),
        ({"q": [("a", 1e300)]}, "t", "not a finite"),
        ({"p": [("a", 1.0)], "q": [("b", 2.0), ("a", 1.0), ("a", 3.0)]}, "t", "query q has document a twice"),
    ],
)
def test_rows_that_no_run_can_hold_leave_no_file(tmp_path, rows, tag, said):
    with pytest.raises(GraceError, match=said):
        write_run(tmp_path / "run.trec", rows, tag=tag)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("q Q0 a 1 0.5 t\nq Q0 b 2 0.4\n", "line 2: 5 fields where 6"),
        ("q Q0 a one 0.5 t\n", "line 1: rank 'one' is not a number"),
        ("q Q0 a 1 0.5 t\nq Q0 b 2 high t\n", "line 2: score 'high' is not a number"),
        ("q Q0 a 1 nan t\n", "not a finite"),
        ("q Q0 a 0 0.5 t\nq Q0 b 1 0.4 t\n", "line 1: rank 0 of query q where 1"),
        ("q Q0 a 1 0.5 t\nq Q0 b 1 0.4 t\n", "line 2: rank 1 of query q where 2"),
        ("q Q0 a 1 0.5 t\nq Q0 b 2 0.5 t\n", "line 2: the score of rank 2 of query q is not below"),
        ("q Q0 a 1 0.5 t\n\nq Q0 a 2 0.4 t\n", "line 3: query q has document a twice"),
    ],
)
def test_bad_run_lines_are_named(tmp_path, text, said):
    (tmp_path / "run.trec").write_text(text)
    with pytest.raises(GraceError, match=said):
        read_run(tmp_path / "run.trec")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("q 0 a\n", "line 1: 3 fields where 4"),
        ("q 0 a yes\n", "line 1: relevance 'yes'"),
        ("q 0 a 1\nq 0 a 1\n", "line 2: query q and document a are listed twice"),
        ("\n", "is empty"),
    ],
)
def test_bad_qrels_lines_are_named(tmp_path, text, said):
    (tmp_path / "qrels.trec").write_text(text)
    with pytest.raises(GraceError, match=said):
        read_qrels(tmp_path / "qrels.trec")


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(GraceError, match="run is missing"):
        read_run(tmp_path / "none.trec")
    (tmp_path / "run.trec").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(GraceError, match="not a readable text file"):
        read_run(tmp_path / "run.trec")
