"""Downloads: sums, room on the disk, proxies, files that are there already, and the table of sources."""

from __future__ import annotations

import hashlib
import json
import shutil

import pytest

from grace.data.download import download, transfer
from grace.data.download.sources import read_sources, sources_of
from grace.data.download.transfer import fetch
from grace.system.errors import GraceError
from tests.unit import download_server
from tests.unit.download_server import CONTENT, PHOTOS, get, leftovers, photos_are_right, sources

server = download_server.server
waits = download_server.waits
patience = download_server.patience


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_a_wrong_sum_is_a_wrong_file(server, tmp_path, patience, kind):
    wrong = {"sha256": "", "md5": ""} | {kind: hashlib.new(kind, b"other").hexdigest()}
    with pytest.raises(GraceError, match=f"wrong file: its {kind} is"):
        get(tmp_path, patience, server.url("a", "good"), **wrong)
    assert leftovers(tmp_path) == [] and not (tmp_path / "data/archives/toy.zip").exists()


def test_an_unknown_sum_is_recorded_and_enforced(server, tmp_path, patience):
    get(tmp_path, patience, server.url("a", "good"), known=False)
    recorded = json.loads((tmp_path / "data/archives/checksums.json").read_text())
    assert recorded == {"toy.zip": {"bytes": len(CONTENT), "sha256": hashlib.sha256(CONTENT).hexdigest()}}
    shutil.rmtree(tmp_path / "data/toy")
    (tmp_path / "data/archives/toy.zip").unlink()
    server.content = CONTENT.replace(b"\3" * 3003, b"\7" * 3003)
    with pytest.raises(GraceError, match=r"checksums\.json says"):
        get(tmp_path, patience, server.url("a", "good"), known=False)
    assert not (tmp_path / "data/toy/images").exists()


def test_a_full_disk_is_refused_before_it_starts(server, tmp_path, patience, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=transfer.RESERVE + 18_500))
    with pytest.raises(GraceError, match=r"toy, fetched and unpacked, needs .* GB are free"):
        get(tmp_path, patience, server.url("a", "good"))
    assert server.asked == [] and list((tmp_path / "data/archives").iterdir()) == []
    with pytest.raises(
        GraceError, match=r"toy\.zip needs .* GB are free"
    ):  # the size is known when the server tells it
        get(tmp_path, patience, server.url("a", "good"), known=False)
    assert len(server.asked) == 1 and not (tmp_path / "data/archives/toy.zip.part").exists()


def test_a_disk_that_has_room_for_one_of_two_files_is_refused_before_the_first(server, tmp_path, patience, monkeypatch):
    first, second = server.url("a", "good"), server.url("b", "good")
    table = sources(tmp_path, first)
    line = (
        table.read_text()
        .splitlines()[1]
        .replace(first, second)
        .replace("toy.zip", "more.zip")
        .replace("images", "more")
    )
    table.write_text(table.read_text() + line + "\n")
    usage, unpacked = shutil.disk_usage(tmp_path), sum(map(len, PHOTOS.values()))
    free = transfer.RESERVE + 2 * (len(CONTENT) + unpacked) - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=free))
    arguments = {"dataset": "toy", "data": tmp_path / "data", "sources": table, "patience": patience}
    with pytest.raises(GraceError, match="toy, fetched and unpacked, needs"):
        download(**arguments)
    assert server.asked == []
    free += 1
    download(**arguments)
    (tmp_path / "data/archives/more.zip").unlink()
    shutil.rmtree(tmp_path / "data/toy/more")
    half = tmp_path / "data/archives/more.zip.part"
    half.write_bytes(CONTENT[:1000])
    free = transfer.RESERVE + len(CONTENT) - 1000 + unpacked - 1  # what lies there already counts
    with pytest.raises(GraceError, match="toy, fetched and unpacked, needs"):
        download(**arguments)


@pytest.mark.parametrize("excluded", ["127.0.0.1", "localhost,127.0.0.1"])
def test_no_proxy_is_respected(server, tmp_path, patience, monkeypatch, excluded):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", excluded)
    get(tmp_path, patience, server.url("a", "good"))
    assert photos_are_right(tmp_path)


def test_two_downloads_of_one_file_do_not_mix(server, tmp_path, patience):
    source = sources_of("toy", sources(tmp_path, server.url("a", "good")))[0]
    target = tmp_path / "toy.zip"
    with transfer._alone(target.with_name("toy.zip.part")), pytest.raises(GraceError, match="another process"):
        fetch(source, target, patience)


def test_a_proxy_of_the_environment_is_used(server, tmp_path, patience, monkeypatch):
    proxy = server.url("http://nowhere.invalid/toy.zip".strip("/"), "good")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.http.server_port}")
    monkeypatch.setenv("no_proxy", "")
    assert proxy
    get(tmp_path, patience, "http://nowhere.invalid/toy.zip")
    assert server.asked[0][0] == "http://nowhere.invalid/toy.zip" and photos_are_right(tmp_path)


def test_file_addresses(tmp_path, patience):
    (tmp_path / "kept.zip").write_bytes(CONTENT)
    get(tmp_path, patience, (tmp_path / "none.zip").as_uri(), (tmp_path / "kept.zip").as_uri())
    assert photos_are_right(tmp_path)


def test_a_form_is_named_before_anything_is_fetched(tmp_path, patience):
    with pytest.raises(GraceError, match=r"fill in the form at https://form\.example, save the file as .*toy\.zip"):
        get(tmp_path, patience, form="https://form.example")
    (tmp_path / "data/archives/Toy.zip").write_bytes(b"")
    with pytest.raises(GraceError, match=r"found Toy\.zip there: rename it"):
        get(tmp_path, patience, form="https://form.example")


def test_a_placed_file_is_verified_and_used(tmp_path, patience):
    placed = tmp_path / "data/archives/toy.zip"
    placed.parent.mkdir(parents=True)
    placed.write_bytes(CONTENT[:-50])
    with pytest.raises(GraceError, match=r"toy\.zip is not the expected file: it is not a complete ZIP"):
        get(tmp_path, patience, known=False, form="https://form.example")
    assert placed.read_bytes() == CONTENT[:-50]  # never deleted: only its owner knows what it is
    placed.write_bytes(CONTENT)
    get(tmp_path, patience, known=False, form="https://form.example")
    assert photos_are_right(tmp_path)
    assert "toy.zip" in json.loads((tmp_path / "data/archives/checksums.json").read_text())


def test_an_unpacked_folder_is_counted_and_never_overwritten(tmp_path, patience):
    images = tmp_path / "data/toy/images"
    images.mkdir(parents=True)
    (images / "mine.jpg").write_bytes(b"mine")
    with pytest.raises(GraceError, match=r"contains 1 files \*\.jpg, expected 6"):
        get(tmp_path, patience, form="https://form.example")
    for name, content in PHOTOS.items():
        (images / name).write_bytes(content)
    get(tmp_path, patience, form="https://form.example")
    assert (images / "mine.jpg").read_bytes() == b"mine"


def test_one_file_of_an_archive(server, tmp_path, patience):
    one = {"take": "photo3.jpg", "into": "photo.jpg", "files": 1, "unpacked_bytes": 3003}
    assert get(tmp_path, patience, server.url("a", "good"), **one)["photo.jpg"].read_bytes() == PHOTOS["photo3.jpg"]
    (tmp_path / "data/toy/photo.jpg").write_bytes(b"other")
    with pytest.raises(GraceError, match="is not the published file of 3,003 bytes"):
        get(tmp_path, patience, server.url("a", "good"), **one)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"sha256": "abc"}, "line 2: 'abc' is not a valid sha256"),
        ({"bytes": "many"}, "bytes must be an integer"),
        ({"files": ""}, "files must be an integer"),
        ({"into": "../elsewhere"}, "inside the data folder"),
        ({"file": "a/b.zip"}, "inside the data folder"),
        ({"licence": " "}, "licence is empty"),
        ({"url": "gopher://x/y"}, "must start with http, https, file"),
        ({"url": ""}, "either url or form"),
        ({"form": "https://form.example"}, "either url or form"),
    ],
)
def test_a_wrong_table_of_sources(tmp_path, changed, said):
    with pytest.raises(GraceError, match=said):
        read_sources(sources(tmp_path, "http://127.0.0.1/a", **changed))


def test_the_sources_of_the_repository():
    rows = read_sources()
    assert {row.dataset for row in rows} == {"flickr8k", "flickr30k", "coco"}
    for row in rows:
        assert row.licence and row.terms.startswith("https://")
    coco = {row.into: row for row in rows if row.dataset == "coco"}
    assert coco["images/train2014"].files + coco["images/val2014"].files == 123_287
    with pytest.raises(GraceError, match="did you mean 'flickr30k'"):
        sources_of("flickr30")
