"""The whole pipeline, run once for real on sixty drawings. What reruns after which edit: `test_reruns.py`."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps
from typer.testing import CliRunner

from grace.cli import app
from grace.cli.search import search
from grace.data.images import read_image
from grace.retrieval.contact_sheet import Tile, contact_sheet
from grace.retrieval.folders import system_folder
from grace.retrieval.opening import open_system
from grace.retrieval.runs import read_run
from grace.system.errors import GraceError
from grace.system.files import MARKER
from grace.workflow.config import Retrieve

pytestmark = pytest.mark.slow
TINY = "config/tiny.yaml"
SYSTEMS = ("baseline", "atomic/seed0", "structured/seed0")
ROW = {
    *("dataset", "system", "seed", "queries", "R@1", "R@5", "R@10", "MRR@10", "intervals"),
    *("memorization", "valid_rate", "versus_baseline", "confidence", "setting"),
}


@pytest.fixture(scope="module")
def workflow(workflow_in, tmp_path_factory):
    """A finished run; the tests below only plan, but for the last one."""
    workflow = workflow_in(tmp_path_factory.mktemp("tiny"))
    done = workflow(overlays=(TINY,), network=False)
    workflow.network_was_denied = done.returncode != 77
    if not workflow.network_was_denied:
        done = workflow(overlays=(TINY,))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "results-tiny/report/index.html" in done.stdout + done.stderr
    return workflow


@pytest.fixture(scope="module")
def results(workflow):
    return workflow.folder / "results-tiny"


def test_no_stage_needs_a_network(workflow):
    """The run had none: stages that fetch, `download` and models of a hub, are not in this configuration."""
    if not workflow.network_was_denied:
        pytest.skip("this machine allows no namespace without a network")
    planned = workflow("-n", "-F", "-p", overlays=(TINY,))
    assert "grace download" not in planned.stdout + planned.stderr


def test_the_network_was_denied_indeed(workflow):
    if not workflow.network_was_denied:
        pytest.skip("this machine allows no namespace without a network")
    code = "import socket; socket.create_connection(('192.0.2.1', 443), timeout=5)"
    command = [sys.executable, str(Path(__file__).with_name("without_network.py")), sys.executable, "-c", code]
    done = subprocess.run(command, text=True, capture_output=True, timeout=60, check=False)
    assert done.returncode == 1 and "Network is unreachable" in done.stderr


def test_the_table_has_a_row_a_system(results):
    rows = json.loads((results / "metrics.json").read_text())
    assert [row["system"] for row in rows] == ["baseline", "atomic", "structured"]
    for row in rows:
        assert set(row) >= ROW and row["dataset"] == "scenes"
        assert row["queries"] == 150
        assert 0 <= row["R@1"] <= row["R@5"] <= row["R@10"] <= 1
        low, high = row["intervals"]["R@10"]
        assert low <= row["R@10"] <= high and not math.isnan(low + high)
    assert rows[1]["valid_rate"] == rows[2]["valid_rate"] == 1.0
    assert rows[0]["versus_baseline"] is None and "R@1" in rows[1]["versus_baseline"]


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_promised_files_are_there(results, system):
    folder = results / "scenes" / system
    assert {"run.trec", "metrics.json", "retrieval.json"} <= {file.name for file in folder.iterdir()}
    lines = [line.split() for line in (folder / "run.trec").read_text().splitlines()]
    assert all(len(line) == 6 and line[1] == "Q0" for line in lines)
    assert {line[5] for line in lines} == {system.split("/")[0]}
    assert len({line[0] for line in lines}) == 150


def test_the_report_is_one_file_that_opens_offline(results):
    page = (results / "report" / "index.html").read_text()
    assert "atomic" in page and "structured" in page and "baseline" in page
    assert 'src="http' not in page and 'href="http://' not in page.split("</head>")[0]


def test_nothing_half_written_and_no_state_is_left(results):
    hidden = [file for file in results.rglob(".*") if file.name not in (".snakemake_timestamp", MARKER)]
    assert hidden == []
    assert not list(results.rglob("training_state")) and not (results / "scenes" / "captioner_state").exists()


def test_every_stage_was_timed(results):
    timed = {file.stem for file in (results / "benchmarks").rglob("*.tsv")}
    assert {"dataset", "tower", "encode", "captioner", "pseudo_queries", "train", "retrieve", "evaluate"} <= timed


def test_a_second_run_has_nothing_to_do(workflow):
    done = workflow(overlays=(TINY,))
    assert done.returncode == 0 and "Nothing to be done" in done.stdout + done.stderr


def test_other_beams_rerun_retrieval_and_what_follows(workflow):
    beams = workflow.overlay("beams", {"retrieve": {"beams": 7}})
    plan = workflow.planned(overlays=(TINY, beams))
    assert plan == {"retrieve": 2, "evaluate": 2, "metrics": 1, "report": 1}


def found_of(results, system: str, captions: list[str], **asked) -> tuple[str, dict[str, list[tuple[str, float]]]]:
    """What the command `search` says: its first line, and by caption the images with their scores."""
    said: list[str] = []
    settings = Retrieve(beams=5, batch_size=2)
    search(captions=captions, system=results / "scenes" / system, settings=settings, say=said.append, **asked)
    images = pd.read_parquet(results / "scenes/dataset/images.parquet").set_index("file")["image_id"]
    found: dict[str, list[tuple[str, float]]] = {}
    for line in said[1:]:
        words = line.split()
        if line.startswith("\n"):
            own = found.setdefault(line.strip(), [])
        elif not line.startswith("      "):
            own.append((images[Path(words[2]).name], float(words[1])))
            assert int(words[0]) == len(own) and Path(words[2]).is_file()
    return said[0], found


@pytest.mark.parametrize("system", SYSTEMS[1:])
def test_one_s_own_words_find_what_retrieve_finds(results, system):
    """The captions of the test split, typed in: images and scores of the run."""
    captions = pd.read_parquet(results / "scenes/dataset/captions.parquet").query("split == 'test'")[:7]
    run = read_run(results / "scenes" / system / "run.trec")
    first, found = found_of(results, system, captions["text"].tolist(), top=5, gallery_only=True)
    assert first.startswith(f"{system.split('/')[0]}, seed 0: 30 of 100 images of the gallery")
    for query_id, text in zip(captions["caption_id"], captions["text"], strict=True):
        wanted = run[run["query_id"] == query_id].sort_values("rank")[:5]
        assert [image for image, _ in found[text]] == wanted["doc_id"].tolist()
        assert [score for _, score in found[text]] == pytest.approx(wanted["score"].tolist(), abs=0.006)


def test_a_search_among_all_images_finds_train_images_too(results):
    caption = "a red circle above a blue square"
    first, found = found_of(results, "atomic/seed0", [caption], top=90)
    assert "90 of 100 images have an identifier" in first and len(found[caption]) == 90
    _, gallery = found_of(results, "atomic/seed0", [caption], top=30, gallery_only=True)
    own = {image for image, _ in gallery[caption]}
    assert [pair for pair in found[caption] if pair[0] in own] == gallery[caption]
    splits = pd.read_parquet(results / "scenes/dataset/images.parquet").set_index("image_id")["split"]
    assert {splits[image] for image, _ in found[caption]} == {"train", "test"}
    _, structured = found_of(results, "structured/seed0", [caption], top=90)
    assert len(structured[caption]) == 90, "with as many beams as images all are found"


def test_what_is_found_is_drawn(results, tmp_path):
    captions, images = ["a red circle", "a star " * 40], results / "scenes/dataset/images"
    _, found = found_of(results, "atomic/seed0", captions, top=12, picture=tmp_path / "found.png")
    file_of = pd.read_parquet(images.parent / "images.parquet").set_index("image_id")["file"]
    with Image.open(tmp_path / "found.png") as sheet:
        assert sheet.format == "PNG" and sheet.width == 10 * 208 + 8
        for row, caption in enumerate(captions):
            answers = found[caption.strip()]
            assert len(answers) == 12
            for place, (image, _) in enumerate(answers):  # ten in a line, then the others below
                left, above = 8 + place % 10 * 208, 8 + row * (30 + 2 * 230) + 22 + place // 10 * 230
                right = ImageOps.contain(read_image(images / file_of[image]), (200, 200))
                assert np.array_equal(np.asarray(sheet.crop((left, above, left + 200, above + 200))), np.asarray(right))
    assert [file.name for file in tmp_path.iterdir()] == ["found.png"]


def test_the_command_line_hands_everything_on(results, tmp_path, monkeypatch):
    """From inside the system's folder, by its dot; ranks that are not proven are told."""
    monkeypatch.chdir(results / "scenes/structured/seed0")
    asked = ["search", "a red circle", "--system", ".", "--top", "3", "--gallery-only"]
    refused = CliRunner().invoke(app, [*asked, "--picture", str(tmp_path / "new" / "found.webp")])
    assert "there is no folder" in str(refused.exception) and not list(tmp_path.iterdir())
    drawn = tmp_path / "found.webp"
    done = CliRunner().invoke(app, [*asked, "--settings", '{"search": "exact"}', "--picture", str(drawn)])
    assert done.exit_code == 0 and drawn.exists() and "proven" not in done.output, done.output
    lines = done.output.splitlines()
    assert "30 of 100 images of the gallery" in lines[0] and lines[2] == "a red circle" and len(lines) == 8
    captions = pd.read_parquet(results / "scenes/dataset/captions.parquet")
    assert all(any(line.endswith(text) for text in captions["text"]) for line in lines[3:6])
    narrow = CliRunner().invoke(app, [*asked[:4], "--settings", '{"beams": 1}', "--top", "1", "--gallery-only"])
    assert narrow.exit_code == 0
    exact, best = (float(said.splitlines()[3].split()[1]) for said in (done.output, narrow.output))
    assert exact >= best and (exact == best or "none of these 1 are proven" in narrow.output)


def test_a_system_is_known_by_any_way_to_it(results, tmp_path):
    (tmp_path / "link").symlink_to(results / "scenes/atomic/seed0")
    for place in (results / "scenes/atomic", results / "scenes/atomic/seed0/model", tmp_path / "link"):
        assert system_folder(place).resolve() == (results / "scenes/atomic/seed0").resolve()
        assert (system_folder(place).parent.parent / "dataset").is_dir()


def test_a_search_asks_as_the_run_did(results):
    """Beams are 5 in config/tiny.yaml and 10 by default; what is given is laid over it."""
    system = open_system(results / "scenes/structured/seed0")
    assert system.settings().beams == 5
    assert system.settings(beams=3).beams == 3


def test_no_file_is_replaced(results, tmp_path):
    """A photo named by mistake is not overwritten by what is found."""
    (tmp_path / "mine.jpg").write_bytes(b"a photo")
    (tmp_path / "link.png").symlink_to(tmp_path / "mine.jpg")
    for name in ("mine.jpg", "link.png"):
        with pytest.raises(GraceError, match="already exists"):
            found_of(results, "atomic/seed0", ["a dog"], top=1, picture=tmp_path / name)
    assert (tmp_path / "mine.jpg").read_bytes() == b"a photo"


def test_names_of_any_kind_and_a_photo_that_is_gone_are_drawn(tmp_path):
    names = ["zwei\nZeilen.png", "h\u00e9llo \u732b.png", "gone.png"]
    for name in names[:2]:
        Image.new("RGB", (1000, 2)).save(tmp_path / name)
    sheet = contact_sheet([("stra\u00dfe\x1b[31m", [Tile(tmp_path / name, -1.0) for name in names]), ("nothing", [])])
    assert sheet.size == (3 * 208 + 8, 2 * 260 + 8)


def test_a_data_set_made_again_since_is_told_in_words(results, tmp_path):
    copy = shutil.copytree(results / "scenes", tmp_path / "scenes")
    for name in ("images", "captions"):
        file = copy / "dataset" / f"{name}.parquet"
        table = pd.read_parquet(file)
        first = pd.read_parquet(results / "scenes/dataset/images.parquet")["image_id"][0]
        table["image_id"] = table["image_id"].replace(first, "another")
        table.to_parquet(file, index=False)
    with pytest.raises(GraceError, match="was made again after the model was trained"):
        search(captions=["a cat"], system=copy / "atomic", top=1, settings=Retrieve())


@pytest.mark.parametrize(
    ("place", "keys", "said"),
    [
        (".", {}, "contains several trained models; give one of them: .*atomic/seed0, .*structured/seed0"),
        ("scenes/tower", {}, "contains no trained model"),
        ("nowhere", {}, "nowhere does not exist"),
        ("scenes/atomic", {"captions": ["a cat", "  "]}, "a caption is empty"),
        ("scenes/atomic", {"captions": ["red " * 2000]}, "query with its identifier has .* tokens"),
        ("scenes/atomic", {"picture": Path("found.gif")}, "use one of these suffixes"),
        ("scenes/atomic", {"captions": ["a \udcff dog"]}, "a caption is not UTF-8"),
        ("scenes/atomic", {"settings": Retrieve(depth=20)}, "is set by --top here"),
        ("scenes/atomic", {"captions": ["a cat"] * 30, "top": 90, "picture": Path("found.webp")}, "lower --top"),
    ],
)
def test_a_search_that_cannot_be_is_told_in_words(results, place, keys, said):
    with pytest.raises(GraceError, match=said):
        search(**{"captions": ["a cat"], "system": results / place, "top": 5, "settings": Retrieve(), **keys})


def test_train_alone_again_ends_in_the_same_runs(workflow, results):
    """`train -R train_model` reruns one stage; trained again, the models give the same rankings, to the byte."""
    assert workflow.planned("train", "-R", "train_model", overlays=(TINY,)) == {"train": 2}
    runs = [results / "scenes" / system / "run.trec" for system in SYSTEMS[1:]]
    before = [run.read_bytes() for run in runs]
    times = [run.stat().st_mtime_ns for run in runs]
    for arguments in (("train", "-R", "train_model"), ("retrieve",)):
        done = workflow(*arguments, overlays=(TINY,))
        assert done.returncode == 0, done.stdout + done.stderr
    assert all(run.stat().st_mtime_ns > time for run, time in zip(runs, times, strict=True)), (
        "retrieve did not run again"
    )
    assert [run.read_bytes() for run in runs] == before


def test_snakemakes_report_shows_the_page_the_table_and_the_figure_under_captions(workflow, tmp_path):
    done = workflow("--report", str(tmp_path / "snakemake.html"), overlays=(TINY,))
    assert done.returncode == 0, done.stdout + done.stderr
    text = (tmp_path / "snakemake.html").read_text(encoding="utf-8")
    for name, caption in (
        ("index", "The whole report on one page"),
        ("table", "One row per system"),
        ("recall", "Recall at 1, 5"),
    ):
        assert name in text and caption in text
    assert '"Results"' in text and '"Report"' in text
