"""Malformed Karpathy JSON of every kind: always tables that hold together, or one clear line, never a traceback."""

from __future__ import annotations

import copy
import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from grace.data.karpathy import karpathy
from grace.data.tables import SPLITS, load_dataset
from grace.retrieval.runs import read_qrels
from grace.system.errors import GraceError
from grace.workflow.config import Karpathy
from tests.unit.karpathy_files import document
from tests.unit.photos import picture

NAMES = [
    "images",
    "imgid",
    "cocoid",
    "filename",
    "filepath",
    "split",
    "sentences",
    "sentid",
    "raw",
    "tokens",
    "dataset",
]
TEXTS = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        [*SPLITS, "restval", "1.png", "../1.png", "/etc/passwd", "val2014", " ", "", "a b", "\n", "\0", "\ud800"]
    ),
    st.sampled_from(["x" * 5000, "1.png\nb", "\u2028", "\x1c", "-", "#", "é", "\U0001f415"]),
)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-3, 70), st.floats(), st.just(10**40), TEXTS)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES) | TEXTS, inner, max_size=4),
    max_leaves=8,
)


def places(value: Any, way: tuple = ()) -> Iterator[tuple]:
    """The way to every value inside a document."""
    yield way
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(inner, (*way, key))


@st.composite
def documents(draw: st.DrawFn) -> Any:
    """A good document with up to four changes: a value replaced, deleted, doubled, or put under another name."""
    content: Any = copy.deepcopy(document(draw(st.sampled_from(["flickr", "coco"]))))
    for _ in range(draw(st.integers(0, 4))):
        ways = [way for way in places(content) if way]
        if not ways:
            break
        *way, last = draw(st.sampled_from(ways))
        place = content
        for step in way:
            place = place[step]
        change = draw(st.sampled_from(["replace", "replace", "delete", "double", "rename"]))
        if change == "replace":
            place[last] = draw(VALUES)
        elif change == "delete":
            del place[last]
        elif isinstance(place, list):
            place.insert(last, copy.deepcopy(place[last]))
        else:
            place[draw(st.sampled_from(NAMES) | TEXTS)] = place.pop(last) if change == "rename" else place[last]
    return content


@st.composite
def files(draw: st.DrawFn) -> bytes:
    """A document as a file, whole or cut, with bytes put in, in another encoding; or no document at all."""
    content = draw(st.one_of(documents(), documents(), documents(), VALUES))
    text = json.dumps(content, ensure_ascii=draw(st.booleans()))
    raw = text.encode(draw(st.sampled_from(["utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16"])), errors="surrogatepass")
    if draw(st.booleans()):
        return raw
    cut = draw(st.integers(0, len(raw)))
    return (
        raw[:cut] + draw(st.binary(max_size=4)) + (raw[cut + draw(st.integers(0, 4)) :] if draw(st.booleans()) else b"")
    )


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    (folder / "val2014").mkdir()
    for row in range(6):
        picture(row).save(folder / f"{row}.png")
        picture(row).save(folder / f"val2014/{row}.png")
    return folder


def has_tables(photos: Path, content: bytes, chosen: Karpathy) -> bool:
    """Whether the file became tables, which then hold together; if not, the reason is one line and nothing is left."""
    root = Path(tempfile.mkdtemp(dir=photos.parent))
    try:
        (root / "dataset.json").write_bytes(content)
        try:
            karpathy(json_file=root / "dataset.json", images=photos, output=root / "out", settings=chosen, name="some")
        except GraceError as error:
            said = str(error)
            assert said.isprintable() and 20 < len(said) < 600, said
            assert [path.name for path in root.iterdir()] == ["dataset.json"]
            return False
        data = load_dataset(root / "out")  # checks ids, splits, texts
        assert all(data.image_path(file).is_file() for file in data.images["file"])
        test = data.captions_of("test")
        qrels = read_qrels(root / "out/qrels.trec")
        assert list(zip(qrels["query_id"], qrels["doc_id"], strict=True)) == list(
            zip(test["caption_id"], test["image_id"], strict=True)
        )
        assert all(len(text.splitlines()) == 1 for text in data.captions["text"])
        return True
    finally:
        shutil.rmtree(root)


@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(files(), st.sampled_from(["train", "drop"]), st.integers(0, 2), st.sampled_from([0, 0, 0, 1]))
@example(json.dumps(document()).replace('"sentid": 0', '"sentid": ' + "9" * 5000).encode(), "train", 0, 0)
@example(json.dumps(document()).replace('"1.png"', '"1\\n.png"').encode(), "train", 0, 0)
@example(json.dumps(document()).replace('"imgid": 1,', '"imgid": "\\ud800",').encode(), "train", 0, 0)
@example(json.dumps(document()).replace('"imgid": 1,', '"imgid": "\\u0007",').encode(), "train", 0, 0)
@example(json.dumps(document()).encode("utf-16"), "train", 0, 0)
@example(b'{"images": ' + b"[" * 200_000, "train", 0, 0)
def test_tables_or_one_clear_line(photos: Path, content: bytes, restval: str, limit: int, fold: int):
    has_tables(photos, content, Karpathy(restval=restval, max_train=limit, max_test=limit, fold=fold))


@pytest.mark.parametrize("dialect", ["flickr", "coco"])
def test_the_document_that_is_changed_is_good(photos: Path, dialect: str):
    assert has_tables(photos, json.dumps(document(dialect)).encode(), Karpathy())
