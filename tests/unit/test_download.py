"""Downloads from a loopback server that misbehaves in every way that real ones do, and from file:// addresses."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import http.server
import io
import json
import shutil
import threading
import zipfile
from pathlib import Path

import pytest

from grace.data.download import download, transfer
from grace.data.download.sources import COLUMNS, read_sources, sources_of
from grace.data.download.transfer import Patience, fetch
from grace.system.errors import GraceError

PHOTOS = {f"photo{number}.jpg": bytes([number]) * (3000 + number) for number in range(6)}


def archive() -> bytes:
    """A ZIP of the photos in a folder, stored and not compressed, with what macOS leaves in such archives."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as made:
        for name, content in PHOTOS.items():
            made.writestr(f"Photos/{name}", content)
            made.writestr(f"__MACOSX/Photos/._{name}", b"junk")
    return file.getvalue()


CONTENT = archive()


class Server:
    """A loopback HTTP server. `plan[path]` is a list of behaviours, one a request; the last one stays."""

    def __init__(self) -> None:
        self.plan: dict[str, list[str]] = {}
        self.asked: list[tuple[str, str | None]] = []
        self.content = CONTENT
        self.version = '"v1"'
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server.answer(self)

            def log_message(self, *arguments) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def url(self, path: str, *behaviours: str) -> str:
        self.plan[path] = list(behaviours)
        return f"http://127.0.0.1:{self.http.server_port}/{path}"

    def answer(self, request) -> None:
        path = request.path.strip("/")
        self.asked.append((path, request.headers.get("Range")))
        plan = self.plan[path]
        how = plan.pop(0) if len(plan) > 1 else plan[0]
        request.close_connection = True
        if how.isdigit():
            request.send_response(int(how))
            request.send_header("Retry-After", "7")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        body = b"<html>Please log in</html>" * 40 if how == "html" else self.content
        asked = request.headers.get("Range")
        start = 0
        fresh = request.headers.get("If-Range") in (None, self.version)
        if asked and fresh and how not in ("ignores range", "html"):
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(body):
                request.send_response(416)
                request.send_header("Content-Range", f"bytes */{len(body)}")
                request.send_header("Content-Length", "0")
                request.end_headers()
                return
            request.send_response(206)
            shown = start + 5 if how == "wrong range" else start
            request.send_header("Content-Range", f"bytes {shown}-{len(body) - 1}/{len(body)}")
        else:
            request.send_response(200)
        announced = len(body) - start + {"announces more": 1000, "announces less": -1000}.get(how, 0)
        if how != "no length":
            request.send_header("Content-Length", str(announced))
        request.send_header("ETag", self.version)
        request.end_headers()
        part = body[start:]
        if how == "breaks":
            part = part[: max(len(part) // 2, 1)]
        elif how == "stops":
            part = b""
        elif how == "never ends":
            part = part * 50
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the client hung up first
            request.wfile.write(part)

    def close(self) -> None:
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    made = Server()
    yield made
    made.close()


@pytest.fixture
def waits():
    return []


@pytest.fixture
def patience(waits):
    return Patience(attempts=3, timeout=5, sleep=waits.append)


def sources(folder: Path, *urls: str, known: bool = True, **changed) -> Path:
    """A table of sources with one data set `toy` of one archive at the addresses given."""
    row = dict.fromkeys(COLUMNS, "") | {
        "dataset": "toy", "file": "toy.zip", "url": urls[0] if urls else "", "mirrors": " ".join(urls[1:]),
        "take": "*.jpg", "into": "images", "files": len(PHOTOS), "unpacked_bytes": sum(map(len, PHOTOS.values())),
        "licence": "none", "terms": "do as you like",
    }  # fmt: skip
    if known:
        row |= {"bytes": len(CONTENT), "sha256": hashlib.sha256(CONTENT).hexdigest()}
    path = folder / "sources.csv"
    with open(path, "w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS)
        table.writeheader()
        table.writerow(row | changed)
    return path


def get(folder: Path, patience: Patience, *urls: str, **changed) -> dict[str, Path]:
    return download(dataset="toy", data=folder / "data", sources=sources(folder, *urls, **changed), patience=patience)


def photos_are_right(folder: Path) -> bool:
    found = {path.name: path.read_bytes() for path in (folder / "data/toy/images").iterdir()}
    return found == PHOTOS


def leftovers(folder: Path) -> list[str]:
    """What lies about besides results: parts, temporary folders (locks are empty files that stay)."""
    return [
        path.name
        for path in (folder / "data").rglob("*")
        if (".part" in path.name and not path.name.endswith(".lock")) or path.name.startswith(".images")
    ]


def test_a_plain_download_is_verified_unpacked_and_not_repeated(server, tmp_path, patience):
    url = server.url("a", "good")
    assert get(tmp_path, patience, url) == {"images": tmp_path / "data/toy/images"}
    assert photos_are_right(tmp_path) and leftovers(tmp_path) == []
    receipt = json.loads((tmp_path / "data/toy/download.json").read_text())
    assert receipt["files"]["toy.zip"]["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert receipt["files"]["toy.zip"]["licence"] == "none"
    (tmp_path / "data/archives/toy.zip").unlink()
    get(tmp_path, patience, url)
    assert len(server.asked) == 1
    assert json.loads((tmp_path / "data/toy/download.json").read_text()) == receipt


@pytest.mark.parametrize("known", [True, False])
def test_a_connection_that_breaks_is_continued(server, tmp_path, patience, known):
    url = server.url("a", "breaks", "breaks", "breaks", "breaks", "good")  # more often than `attempts`: bytes arrive
    get(tmp_path, patience, url, known=known)
    ranges = [asked for _, asked in server.asked]
    assert ranges[0] is None and all(asked and asked != "bytes=0-" for asked in ranges[1:]) and len(ranges) == 5
    assert photos_are_right(tmp_path)


def test_a_download_that_was_killed_is_continued(server, tmp_path, patience):
    with pytest.raises(GraceError, match="HTTP 503"):
        get(tmp_path, patience, server.url("a", "breaks", "503"), known=False)
    half = (tmp_path / "data/archives/toy.zip.part").stat().st_size
    get(tmp_path, patience, server.url("a", "good"), known=False)
    assert server.asked[-1] == ("a", f"bytes={half}-")
    assert photos_are_right(tmp_path)


def test_a_server_that_ignores_range_gives_the_file_from_its_start(server, tmp_path, patience):
    get(tmp_path, patience, server.url("a", "breaks", "ignores range"))
    assert server.asked[1][1] is not None and photos_are_right(tmp_path)


def test_a_server_that_sends_another_range_is_asked_anew(server, tmp_path, patience):
    get(tmp_path, patience, server.url("a", "breaks", "wrong range", "good"))
    assert [asked for _, asked in server.asked][2] is None and photos_are_right(tmp_path)


def test_a_file_that_changed_meanwhile_is_not_mixed_with_the_old_part(server, tmp_path, patience):
    url = server.url("a", "breaks", "503")
    with pytest.raises(GraceError):
        get(tmp_path, patience, url, known=False)
    part = tmp_path / "data/archives/toy.zip.part"
    part.write_bytes(b"x" * part.stat().st_size)  # an older version
    server.version = '"v2"'
    get(tmp_path, patience, server.url("a", "good"), known=False)
    assert photos_are_right(tmp_path)


def test_a_part_is_never_continued_from_another_address_without_a_known_sum(server, tmp_path, patience):
    broken, mirror = server.url("a", "breaks", "403"), server.url("b", "good")
    get(tmp_path, patience, broken, mirror, known=False)
    assert server.asked[-1] == ("b", None) and photos_are_right(tmp_path)


def test_a_part_is_continued_at_a_mirror_with_a_known_sum(server, tmp_path, patience):
    get(tmp_path, patience, server.url("a", "breaks", "403"), server.url("b", "good"))
    assert server.asked[-1][0] == "b" and server.asked[-1][1] is not None and photos_are_right(tmp_path)


@pytest.mark.parametrize("lie", ["announces more", "announces less"])
def test_a_wrong_length_is_noticed(server, tmp_path, patience, lie):
    get(tmp_path, patience, server.url("a", lie), server.url("b", "good"))
    assert [path for path, _ in server.asked] == ["a", "b"] and photos_are_right(tmp_path)


def test_a_length_too_short_without_a_known_sum(server, tmp_path, patience):
    """What arrives has the length that was announced; but it is no whole archive."""
    with pytest.raises(GraceError, match="wrong file: it is not a complete ZIP archive"):
        get(tmp_path, patience, server.url("a", "announces less"), known=False)
    assert not (tmp_path / "data/archives/toy.zip").exists() and not (tmp_path / "data/toy").exists()


def test_a_length_too_long_without_a_known_sum(server, tmp_path, patience):
    """Asked for the rest, the server says that there is none: the file is whole."""
    get(tmp_path, patience, server.url("a", "announces more"), known=False)
    assert server.asked[-1] == ("a", f"bytes={len(CONTENT)}-") and photos_are_right(tmp_path)


def test_a_server_that_never_ends_is_stopped(server, tmp_path, patience):
    with pytest.raises(GraceError, match="announces"):
        get(tmp_path, patience, server.url("a", "never ends"), bytes=len(CONTENT) - 10)
    with pytest.raises(GraceError, match="sent more than the"):
        get(tmp_path, patience, server.url("b", "no length"), bytes=len(CONTENT) - 10)
    assert not (tmp_path / "data/archives/toy.zip").exists()


@pytest.mark.parametrize("code", [403, 404, 410])
def test_a_refusal_goes_to_the_mirror_at_once(server, tmp_path, patience, waits, code):
    get(tmp_path, patience, server.url("a", str(code)), server.url("b", "good"))
    assert [path for path, _ in server.asked] == ["a", "b"] and waits == [] and photos_are_right(tmp_path)


def test_an_overloaded_server_is_asked_again_after_the_time_it_names(server, tmp_path, patience, waits):
    get(tmp_path, patience, server.url("a", "503", "429", "good"))
    assert waits == [7.0, 7.0] and photos_are_right(tmp_path)


def test_waits_double_up_to_a_limit(server, tmp_path, waits):
    impatient = Patience(attempts=6, timeout=5, longest_wait=5, sleep=waits.append)
    with pytest.raises(GraceError, match=r"the connection broke after 0 of .* \(6 attempts\)"):
        get(tmp_path, impatient, server.url("a", "stops"))
    assert waits == [1, 2, 4, 5, 5]


def test_the_error_says_why_of_every_address(server, tmp_path, patience):
    urls = server.url("a", "403"), server.url("b", "503"), "http://127.0.0.1:9/closed"
    with pytest.raises(GraceError) as caught:
        get(tmp_path, patience, *urls)
    said = str(caught.value)
    assert "HTTP 403" in said and "HTTP 503" in said and "refused" in said and "\n" not in said
    assert str(tmp_path / "data/archives/toy.zip") in said
    assert not (tmp_path / "data/toy").exists()


@pytest.mark.parametrize("known", [True, False])
def test_a_page_instead_of_the_file(server, tmp_path, patience, known):
    get(tmp_path, patience, server.url("a", "html"), server.url("b", "good"), known=known)
    assert photos_are_right(tmp_path)
    shutil.rmtree(tmp_path / "data")
    with pytest.raises(GraceError, match=r"announces|wrong file"):
        get(tmp_path, patience, server.url("a", "html"), known=known)
    assert not (tmp_path / "data/archives/toy.zip").exists() and leftovers(tmp_path) == []


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
