"""Real captions with everything that once broke a pipeline, through every stage to the run files, unharmed.

Reads ../shared/data (skipped where it is missing): the captions of Flickr8k, Flickr30k and COCO that hold `id`, `#`, quotation
marks, doubled blanks, line breaks, apostrophes, with their photographs (Flickr30k's are not there: drawings stand for them), and
a few captions of our own beside them (no real one here holds a letter beyond ASCII). All become one file in Karpathy's format.
"""

from __future__ import annotations

import gzip
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from grace.data.tables import load_dataset
from grace.retrieval.runs import read_run
from grace.system.files import read_table
from tests.unit.photos import picture

pytestmark = pytest.mark.slow
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
SOURCES = {
    "flickr8k": ("flickr8k/dataset_flickr8k.json", "flickr8k/images"),
    "flickr30k": ("flickr30k/dataset_flickr30k.json.gz", None),
    "coco": ("coco_mini/dataset_coco_mini.json", "coco_mini/images"),
}
HARD = re.compile(r"""\bid\b|#|"|\S  +\S|\n|\bid #|'""")
EACH = {"train": 14, "test": 8}
OURS = [
    "id", "# id", 'say "id" # 3, id', "Ünïcode — ein „Hund“ läuft, 犬 🐕", "  blanks   inside and around  ",
    "query: id id # <image>",
    "<|endofchunk|> a dog", "tab\tand\nline\u2028break", "'", '""', "\\n \\x00 {json: [1]}", "naïve café №5",
]  # fmt: skip


def documents() -> dict[str, Any]:
    found = {}
    for name, (file, _) in SOURCES.items():
        with gzip.open(SHARED / file) if file.endswith(".gz") else open(SHARED / file, "rb") as opened:
            found[name] = json.load(opened)
    return found


def hard_images(name: str, document: Any) -> list[dict[str, Any]]:
    """Images of one source whose captions are hard, a few of train and of test, with ids of their own."""
    chosen: list[dict[str, Any]] = []
    for split, count in EACH.items():
        hits = [
            image
            for image in document["images"]
            if image["split"] == split and any(HARD.search(sentence["raw"]) for sentence in image["sentences"])
        ]
        rare = re.compile(r"\bid\b|#|\n|\S  +\S")
        hits.sort(key=lambda image: not any(rare.search(sentence["raw"]) for sentence in image["sentences"]))
        chosen += hits[:count]
    return [
        {
            "imgid": f"{name}-{image['imgid']}",
            "filename": f"{name}-{image['filename']}",
            "split": image["split"],
            "sentences": [{"sentid": f"{name}-{s['sentid']}", "raw": s["raw"]} for s in image["sentences"]],
            "of": image["filename"],
        }
        for image in chosen
    ]


@pytest.fixture(scope="module")
def run(workflow_in, tmp_path_factory):
    """A finished run on the hard captions: {caption id: raw text} of the test split, all images, the dataset's folder."""
    if not SHARED.is_dir():
        pytest.skip(f"{SHARED} is not on this machine")
    workflow = workflow_in(tmp_path_factory.mktemp("captions"))
    photos = workflow.folder / "photos"
    photos.mkdir()
    images = []
    for name, document in documents().items():
        for number, image in enumerate(hard_images(name, document)):
            folder, place = SOURCES[name][1], photos / image["filename"]
            if folder:
                shutil.copy(SHARED / folder / image["of"], place)
            else:
                picture(number, (96, 96)).save(place)
            images.append(image)
    for number, raw in enumerate(OURS):
        picture(500 + number, (96, 96)).save(photos / f"ours{number}.jpg")
        sentences = [{"sentid": f"ours-{number}-{place}", "raw": raw} for place in range(2)]
        split = "train" if number % 3 == 0 else "test"
        images.append(
            {"imgid": f"ours-{number}", "filename": f"ours{number}.jpg", "split": split, "sentences": sentences}
        )
    (workflow.folder / "captions.json").write_text(json.dumps({"images": images}))
    karpathy = {"json_file": "captions.json", "images": str(photos)}
    overlay = workflow.overlay(
        "captions",
        {
            "output": "results",
            "schemes": ["atomic", "structured", "semantic"],
            "dataset": {"name": "captions", "source": "karpathy", "karpathy": karpathy},
            "pseudo_queries": {"max_tokens": 30},
        },
    )
    done = workflow(overlays=("config/tiny.yaml", overlay), cores=1)
    assert done.returncode == 0, done.stdout + done.stderr
    return images, workflow.folder / "results"


def plain(raw: str) -> str:
    """What a caption may become: outer white space gone, a stretch with a line break or tab one blank; nothing else."""
    return re.sub(r"\s*[\n\t\r\u2028]\s*", " ", raw).strip()


def test_the_choice_is_hard(run):
    texts = "\n".join(sentence["raw"] for image in run[0] for sentence in image["sentences"])
    for mark in (r"\bid\b", "#", '"', "'", r"\S  +\S", r"[^\x00-\x7f]", r"<image>"):
        assert re.search(mark, texts), mark


def test_texts_in_the_tables_are_those_of_the_json(run):
    images, results = run
    captions = load_dataset(results / "captions/dataset").captions
    expected = {s["sentid"]: plain(s["raw"]) for image in images for s in image["sentences"]}
    assert dict(zip(captions["caption_id"], captions["text"], strict=True)) == expected


@pytest.mark.parametrize("system", ["baseline", "atomic/seed0", "structured/seed0", "semantic/seed0"])
def test_every_query_is_in_the_run_with_images_of_the_gallery(run, system):
    images, results = run
    found = read_run(results / "captions" / system / "run.trec")
    queries = {s["sentid"] for image in images if image["split"] == "test" for s in image["sentences"]}
    assert set(found["query_id"]) == queries
    assert set(found["doc_id"]) <= {image["imgid"] for image in images if image["split"] == "test"}
    row = next(
        row for row in json.loads((results / "metrics.json").read_text()) if row["system"] == system.partition("/")[0]
    )
    assert row["queries"] == len(queries)


def test_a_semantic_identifier_is_its_caption_to_the_letter(run):
    images, results = run
    table = read_table(results / "captions/semantic/seed0/identifiers/identifiers.parquet", "identifiers", ["text"])
    texts = table[table["split"] == "train"].groupby("image_id")["text"].agg(set)
    for image in images:
        if image["split"] == "train":
            assert texts[image["imgid"]] == {plain(sentence["raw"]) for sentence in image["sentences"]}
