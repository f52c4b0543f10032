"""A loopback server that misbehaves in every way that real ones do, and what the tests of downloads share."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import http.server
import io
import threading
import zipfile
from pathlib import Path

import pytest

from grace.data.download import download
from grace.data.download.sources import COLUMNS
from grace.data.download.transfer import Patience

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
