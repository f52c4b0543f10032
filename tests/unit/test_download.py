"""Downloads from a loopback server that misbehaves in every way that real ones do."""

from __future__ import annotations

import hashlib
import json
import shutil

import pytest

from grace.data.download.transfer import Patience
from grace.system.errors import GraceError
from tests.unit import download_server
from tests.unit.download_server import CONTENT, get, leftovers, photos_are_right

server = download_server.server
waits = download_server.waits
patience = download_server.patience


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
