"""The report page, made from tiny results: complete, closed to the network, and safe whatever the captions hold."""

import html
import json
import re
from statistics import mean, stdev

import numpy as np
import pytest
import yaml
from PIL import Image

from grace.report import report
from grace.report.gallery import SIDE, data_uri
from grace.system.errors import GraceError
from grace.system.files import write_json
from grace.workflow.config import Config, Report
from tests.unit.report_results import HOSTILE, Page, make_results


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    arguments = make_results(tmp_path_factory.mktemp("report"))
    report(**arguments, settings=Report(title="A <title> of ours", examples=4))
    text = arguments["output"].read_text(encoding="utf-8")
    return text, Page(text)


def test_every_tag_is_closed_and_no_id_stands_twice(made):
    page = made[1]
    assert page.open == []
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {attributes["href"][1:] for _, attributes in page.tags if attributes.get("href", "").startswith("#")}
    assert targets and targets <= set(ids)


def test_the_page_asks_for_nothing(made):
    text, page = made
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "base")
        for name in ("src", "href", "xlink:href", "srcset", "data", "poster", "action"):
            assert attributes.get(name, "#").startswith(("#", "data:image/")), (tag, name, attributes[name][:60])
        assert "url(" not in attributes.get("style", "").replace("url(#", "")
    assert not re.search(r"@import|url\((?!#)", text)
    assert "default-src 'none'" in next(a["content"] for a in page.of("meta") if "http-equiv" in a)


def test_texts_of_the_data_set_are_escaped(made):
    text, page = made
    assert "<script" not in text and "evil.example" in page.text
    assert HOSTILE in page.text
    assert page.of("title") and "A &lt;title&gt; of ours" in text and "drawn &lt;here&gt;" in text


def test_numbers_setting_and_marks(made):
    page = made[1]
    for said in (
        "transductive corpus, unseen queries",
        "split test",
        "32 queries",
        "Gallery of 16 images",
        "R@1",
        "MRR@10",
    ):
        assert said in page.text
    for system in ("baseline", "structured", "atomic"):
        assert system in page.text
    assert any(
        "no significant difference" in a.get("aria-label", "") or "significantly" in a.get("aria-label", "")
        for a in page.of("span")
    )


def test_the_table_says_what_metrics_json_says(tmp_path):
    arguments = make_results(tmp_path, schemes=("atomic",))
    report(**arguments, settings=Report(examples=0))
    text = Page(arguments["output"].read_text()).text
    for row in json.loads((arguments["results"] / "metrics.json").read_text()):
        low, high = row["intervals"]["R@5"]
        assert f"{100 * row['R@5']:.1f}" in text and f"{100 * low:.1f} to {100 * high:.1f}" in text
    assert "93.8" in text and "99.4" in text  # memorized, valid
    assert "Hits and misses" not in text


def test_hits_and_misses_with_pictures(made):
    text, page = made
    assert text.count('<article class="example">') == 3 * (4 + 4)
    pictures = page.of("img")
    assert len(pictures) > 3 * 8 * 5
    assert all(a["src"].startswith("data:image/png;base64,") and a["alt"] for a in pictures)
    assert sum("the correct picture" in a["alt"] for a in pictures) >= 3 * 4
    assert "correct picture at rank 1 ·" in page.text and re.search(
        "correct picture at rank [38] ·|not among the answers", page.text
    )
    assert '<code title="&lt;s0_' in text


def test_figures_follow_the_theme_and_are_described(made):
    text, page = made
    drawings = page.of("svg")
    assert len(drawings) == 4 and all(a["role"] == "img" and a["aria-labelledby"] for a in drawings)
    assert "var(--atomic)" in text and "var(--ink)" in text and "prefers-color-scheme: dark" in text
    assert "#fe01" not in text and "DejaVu" not in text
    inside = text[text.index("<svg") : text.rindex("</svg>")]
    assert "retrieve" in inside and "memorize" in inside


def test_stages_configuration_identifiers_and_versions(made):
    page = made[1]
    for said in (
        "3 min 07 s",
        "1.46 GB",
        "seed 0",
        "embedding_dim",
        "schemes:",
        "identifiers are prefix-free",
        "2 to 3",
        "mean 2.9",
    ):
        assert said in page.text, said
    assert "ir-measures" in page.text and "Processor" in page.text and "0.65 %" in page.text
    scopes = [a.get("scope") for a in page.of("th")]
    assert scopes and all(scopes)


def test_the_configuration_on_the_page_reads_back(made):
    pre = re.search(r"<pre[^>]*>(.*?)</pre>", made[0], re.DOTALL).group(1)
    assert Config.model_validate(yaml.safe_load(html.unescape(pre))).schemes == ("atomic", "structured")


def test_the_same_results_give_the_same_bytes(tmp_path):
    arguments = make_results(tmp_path)
    pages = []
    for _ in range(2):
        report(**arguments, settings=Report(examples=2))
        pages.append(arguments["output"].read_bytes())
    assert pages[0] == pages[1]


def test_several_seeds_are_averaged_and_named(tmp_path):
    arguments = make_results(tmp_path, schemes=("atomic",), seeds=(0, 1))
    report(**arguments, settings=Report(examples=1))
    text = Page(arguments["output"].read_text()).text
    rows = [row for row in json.loads((arguments["results"] / "metrics.json").read_text()) if row["system"] == "atomic"]
    values = [100 * row["MRR@10"] for row in rows]
    assert f"{mean(values):.1f}± {stdev(values):.1f}" in text
    hits = [100 * row["R@1"] for row in rows]
    assert f"atomic for {mean(hits):.1f} % (mean of 2 seeds, standard deviation {stdev(hits):.1f}), " in text
    assert (
        "not corrected" not in text and "corrected for 1 system" in text and "also resample the trained seeds" in text
    )
    assert "Mean over seeds" in text and "atomic, seed 1" in text and "the first is shown" in text


def test_missing_optional_pieces_are_said(tmp_path):
    arguments = make_results(tmp_path)
    world = arguments["results"] / "scenes"
    for name in (
        "tower/metrics.jsonl",
        "atomic/seed0/model/metrics.jsonl",
        "structured/seed0/identifiers/statistics.json",
    ):
        (world / name).unlink()
    for path in arguments["results"].glob("benchmarks/scenes/**/*.tsv"):
        path.unlink()
    report(**arguments, settings=Report(examples=0))
    text = Page(arguments["output"].read_text()).text
    assert "No training curve for the dual encoder (baseline): the tower/metrics.jsonl of this run is missing" in text
    assert "No training curve for atomic" in text and "No training curve for structured" not in text
    assert "identifiers/statistics.json is missing" in text and "No benchmark files were found" in text
    assert "No diagram of the workflow: there are no records of the stages here" in text


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("metrics.json", None, "metrics file is missing"),
        ("metrics.json", "[]", "holds no rows"),
        ("metrics.json", '[{"dataset": "scenes"', "not valid JSON"),
        ("scenes/atomic/seed0/run.trec", None, "run is missing"),
        ("scenes/atomic/seed0/run.trec", "c0 Q0 i0 1 0.5 atomic\n", "a different R@1 from the one in metrics.json"),
        ("scenes/baseline/retrieval.json", None, "retrieval report is missing"),
        ("scenes/dataset/qrels.trec", None, "qrels is missing"),
        ("scenes/dataset/images/i3.png", "no picture", "image .*i3.png cannot be read"),
        ("scenes/tower/metrics.jsonl", '{"step": 1}\n{"step"', "line 2 is not valid JSON"),
        ("benchmarks/scenes/tower.tsv", "a\tb\n1\t2\n", "lacks the column s or max_rss"),
    ],
)
def test_missing_or_broken_required_pieces_are_errors_without_a_page(tmp_path, name, content, said):
    arguments = make_results(tmp_path)
    path = arguments["results"] / name
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(GraceError, match=said):
        report(**arguments, settings=Report(examples=16))
    assert not arguments["output"].exists()


def test_a_scheme_of_the_configuration_without_metrics_is_an_error(tmp_path):
    arguments = make_results(tmp_path, schemes=("atomic",))
    write_json(arguments["config"], Config(schemes=("atomic", "string")).model_dump(mode="json"))
    with pytest.raises(GraceError, match="no row of string, seed 0"):
        report(**arguments, settings=Report())


def test_a_large_photograph_becomes_a_small_jpeg(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (600, 900, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.png")
    uri = data_uri(tmp_path / "photo.png")
    assert uri.startswith("data:image/jpeg;base64,") and len(uri) < 40_000
    assert SIDE == 160
