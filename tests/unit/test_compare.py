"""Two runs by hand: measures, paired difference and wins against plain loops, and the command that prints them."""

from __future__ import annotations

import csv
import io
import itertools

import numpy as np
import pytest
from rich.console import Console

from grace.evaluation.compare import compare, show
from grace.evaluation.measures import MEASURES, per_query
from grace.retrieval.runs import read_qrels, read_run, write_run
from grace.system.errors import GraceError
from grace.workflow.config import Evaluate
from tests.unit.test_cli import grace, refused
from tests.unit.test_measures import perfect, write_world

SETTINGS = Evaluate(resamples=300)
IMAGES, CAPTIONS = 15, 2


@pytest.fixture
def runs(tmp_path):
    """Qrels of 30 queries, and two runs of them that keep 12 and 4 images; the second leaves three unanswered."""
    rng = np.random.default_rng(0)
    docs = [f"d{n}" for n in range(IMAGES)]
    gold = {f"q{n}": docs[n // CAPTIONS] for n in range(IMAGES * CAPTIONS)}
    (tmp_path / "qrels.trec").write_text("".join(f"{query} 0 {doc} 1\n" for query, doc in gold.items()))
    for name, depth, skipped in (("a", 12, 0), ("b", 4, 3)):
        answers = {}
        for query in list(gold)[skipped:]:
            order = rng.permutation(docs).tolist()
            if rng.random() < 0.5:  # half of the answers begin with the right one
                order.remove(gold[query])
                order.insert(0, gold[query])
            answers[query] = [(doc, -float(place)) for place, doc in enumerate(order[:depth])]
        write_run(tmp_path / f"{name}.trec", answers, name)
    return tmp_path, gold


def found(folder, measures=MEASURES, settings=SETTINGS):
    return compare(
        (folder / "a.trec", folder / "b.trec"), qrels=folder / "qrels.trec", measures=measures, settings=settings
    )


def ranks(folder, name, gold) -> dict[str, int]:
    """The rank of every query's image by the lines of the file; 0: not there."""
    out = dict.fromkeys(gold, 0)
    for line in (folder / f"{name}.trec").read_text().splitlines():
        query, _, doc, rank, *_ = line.split()
        if gold[query] == doc:
            out[query] = int(rank)
    return out


def test_measures_differences_and_wins_against_loops(runs):
    folder, gold = runs
    measures = ("R@1", "R@3", "MRR@2", "R@12", "MRR@12")
    rows = {row["measure"]: row for row in found(folder, measures).measures}
    a, b = (ranks(folder, name, gold) for name in "ab")
    for measure in measures:
        kind, depth = measure.split("@")

        def value(rank: int, kind=kind, depth=int(depth)) -> float:
            return 0.0 if not 0 < rank <= depth else 1.0 if kind == "R" else 1 / rank

        pairs = [(value(a[query]), value(b[query])) for query in gold]
        row = rows[measure]
        assert row["a"] == pytest.approx(sum(x for x, _ in pairs) / len(pairs))
        assert row["b"] == pytest.approx(sum(y for _, y in pairs) / len(pairs))
        assert row["difference"] == pytest.approx(row["a"] - row["b"])
        assert row["a_better"] == sum(x > y for x, y in pairs)
        assert row["b_better"] == sum(x < y for x, y in pairs)
        assert row["equal"] == sum(x == y for x, y in pairs)
        assert row["interval"][0] <= row["difference"] <= row["interval"][1]


def test_the_usual_measures_are_those_of_ir_measures(runs):
    folder, _ = runs
    qrels = read_qrels(folder / "qrels.trec")
    for name in "ab":
        means = per_query(qrels, read_run(folder / f"{name}.trec")).mean()
        assert [row[name] for row in found(folder).measures] == pytest.approx([means[name] for name in MEASURES])


def test_p_against_all_exchanges_of_images(tmp_path):
    """Nine images of two captions: every exchange of the two runs, both captions of an image at once."""
    gold = {f"q{n}": f"d{n // 2}" for n in range(18)}
    (tmp_path / "qrels.trec").write_text("".join(f"{query} 0 {doc} 1\n" for query, doc in gold.items()))
    right = {"a": {*range(14)} - {3}, "b": {3, 5, 8, 14, 15}}
    for name, hits in right.items():
        answers = {query: [(doc if n in hits else "x", 1.0)] for n, (query, doc) in enumerate(gold.items())}
        write_run(tmp_path / f"{name}.trec", answers, name)
    each = [sum((n in right["a"]) - (n in right["b"]) for n in (2 * i, 2 * i + 1)) for i in range(9)]
    sums = [abs(sum(s * d for s, d in zip(signs, each, strict=True))) for signs in itertools.product((1, -1), repeat=9)]
    exact = sum(value >= abs(sum(each)) for value in sums) / len(sums)
    row = found(tmp_path, ("R@1",), Evaluate(resamples=20_000)).measures[0]
    assert 0.01 < exact < 0.2 and row["p_value"] == pytest.approx(exact, abs=0.01)


def test_a_run_against_itself_is_equal(runs):
    folder, gold = runs
    same = compare((folder / "a.trec",) * 2, qrels=folder / "qrels.trec", settings=SETTINGS)
    for row in same.measures:
        assert row["difference"] == 0 and row["interval"] == [0, 0] and row["p_value"] == 1
        assert (row["a_better"], row["b_better"], row["equal"]) == (0, 0, len(gold))


def test_the_other_order_turns_the_sign(runs):
    folder, _ = runs
    one = found(folder).measures
    other = compare((folder / "b.trec", folder / "a.trec"), qrels=folder / "qrels.trec", settings=SETTINGS).measures
    for row, turned in zip(one, other, strict=True):
        assert turned["difference"] == pytest.approx(-row["difference"]) and turned["p_value"] == row["p_value"]
        assert (turned["a_better"], turned["b_better"]) == (row["b_better"], row["a_better"])


def test_the_printed_table(runs, capsys):
    folder, _ = runs
    out = io.StringIO()
    comparison = found(folder)
    show(comparison, SETTINGS, console=Console(file=out, width=80))
    text = out.getvalue()
    assert "…" not in text and max(map(len, text.splitlines())) <= 80
    lines = {line.split("  ")[0]: line.split("  ", 1)[1].split() for line in text.splitlines() if "  " in line}
    first = comparison.measures[0]
    assert lines["A"][0] == f"{100 * first['a']:.1f}" and lines["A - B"][0] == f"{100 * first['difference']:+.1f}"
    assert lines["A better"] == [str(row["a_better"]) for row in comparison.measures]
    said = " ".join(text.replace("\n", " ").split())
    assert "b.trec. No answer for 3 of 30 queries; they count as misses." in said
    assert "Images per query at most: B keeps 4." in said and "bootstrap of 15 images, 300 resamples" in said

    show(comparison, SETTINGS, "csv")
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["measure"] for row in rows] == list(MEASURES)
    for row, own in zip(rows, comparison.measures, strict=True):
        for key in ("a", "b", "difference", "p_value"):
            assert float(row[key]) == own[key]
        assert [float(row["a_interval.low"]), float(row["a_interval.high"])] == own["a_interval"]
        assert [int(row[key]) for key in ("a_better", "b_better", "equal", "queries")] == [
            *(own[key] for key in ("a_better", "b_better", "equal")),
            30,
        ]


def test_a_run_of_other_image_ids_is_pointed_out(runs):
    folder, gold = runs
    write_run(folder / "b.trec", {query: [("elsewhere", 1.0)] for query in gold}, "b")
    out = io.StringIO()
    show(found(folder), SETTINGS, console=Console(file=out, width=300))
    assert out.getvalue().count("It finds no relevant image at all: does it use the image ids of the qrels?") == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"measures": ("R@1", "R@0")}, "measure 'R@0' is not R@K or MRR@K; did you mean"),
        ({"measures": ("NDCG@5",)}, "measure 'NDCG@5' is not R@K or MRR@K"),
        ({"measures": ()}, "give at least one measure"),
        ({"qrels": None}, "give either --qrels FILE or --dataset DIR"),
    ],
)
def test_what_is_wrong_with_a_call_is_said(runs, given, said):
    folder, _ = runs
    with pytest.raises(GraceError, match=said):
        compare(
            (folder / "a.trec", folder / "b.trec"), **{"qrels": folder / "qrels.trec", "settings": SETTINGS} | given
        )


def test_queries_and_images_of_a_data_set_are_checked(tmp_path):
    world = write_world(tmp_path, perfect)
    dataset, run = world["dataset"], world["run"]
    lines = run.read_text().splitlines(keepends=True)
    (tmp_path / "strange.trec").write_text("".join(lines[:2]) + lines[2].replace("i1 ", "t0 "))
    with pytest.raises(GraceError, match=r"strange.trec, line 3: image t0 is not in the gallery"):
        compare((run, tmp_path / "strange.trec"), dataset=dataset, settings=SETTINGS)
    compare((run, tmp_path / "strange.trec"), qrels=dataset / "qrels.trec", settings=SETTINGS)  # no gallery is known
    (tmp_path / "strange.trec").write_text("".join(lines[:1]) + "who Q0 i0 1 1.0 t\n")
    with pytest.raises(GraceError, match=r"strange.trec, line 2: query who is not in the qrels"):
        compare((run, tmp_path / "strange.trec"), qrels=dataset / "qrels.trec", settings=SETTINGS)


def test_the_command(runs):
    folder, _ = runs
    given = ("compare", folder / "a.trec", folder / "b.trec", "--resamples", "50")
    done = grace(*given, "--qrels", folder / "qrels.trec", "--measures", "R@1, MRR@3", "--format", "markdown")
    assert done.returncode == 0, done.stderr
    assert "| R@1 | MRR@3 |" in done.stdout and "50 resamples" in done.stdout
    assert "did you mean 'latex'?" in refused(grace(*given, "--qrels", folder / "qrels.trec", "--format", "latx"))
    assert "--qrels FILE or --dataset DIR" in refused(grace(*given))
    assert "confidence: Input should be less than 1" in refused(
        grace(*given, "--qrels", folder / "qrels.trec", "--confidence", "95")
    )
