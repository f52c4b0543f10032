"""Fetch one file from the first URL that works: resume, retry, verify, then rename.

Reads http, https and file URLs (proxies from the environment: http_proxy, https_proxy, no_proxy). Writes `{target}.part` and
`{target}.part.json` (the URL and the file's version, so that a partial download is never resumed with a different file),
and `target` once size and checksums are right. Part of `python -m grace download`.

A broken connection, a timeout and the status codes 408, 425, 429 and 5xx are retried after 1, 2, 4, ... seconds (or as
Retry-After says), for as long as new bytes arrive. After any other failure, or a wrong file, the next mirror is tried.
"""

from __future__ import annotations

import errno
import fcntl
import http.client
import ssl
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import ContentTooShortError, HTTPError, URLError
from urllib.request import Request, build_opener

from grace.data.download.checksums import WrongFile, record, verify
from grace.data.download.sources import Source
from grace.system.errors import GraceError
from grace.system.files import check_space, read_json, write_json
from grace.system.progress import BYTES, progress, say

AGAIN = {408, 425, 429, 500, 502, 503, 504}
BLOCK = 1 << 18
RESERVE = 100 << 20
"""Bytes to leave free on the disk."""


class TryAgain(Exception):
    """The URL may work later. `wait`: the seconds that the server asked for."""

    def __init__(self, why: str, wait: float = 0.0) -> None:
        super().__init__(why)
        self.wait = wait


class GiveUp(Exception):
    """The URL does not provide the file."""


@dataclass(frozen=True)
class Patience:
    """How long to try: attempts in a row without a new byte, seconds without a response, longest wait in seconds."""

    attempts: int = 6
    timeout: float = 60.0
    longest_wait: float = 60.0
    sleep: Callable[[float], None] = time.sleep


def fetch(source: Source, target: Path, patience: Patience | None = None) -> dict[str, int | str]:
    """Fetch `target` from the URLs of `source`; return its {bytes, sha256}.

    Raises a `GraceError` if the disk is too small, if another process is fetching the same file, or if no URL works; the
    error gives the reason for each, and the partial download is kept if it can be resumed.
    """
    patience = patience or Patience()
    target.parent.mkdir(parents=True, exist_ok=True)
    part = _part(target)
    reasons = []
    with _alone(part):
        for url in source.urls:
            try:
                _patiently(url, source, part, patience)
                found = verify(part, source, target.parent)
            except GiveUp as why:
                reasons.append(f"{url}: {why}")
            except WrongFile as why:
                _forget(part)
                reasons.append(f"{url}: wrong file: {why}")
            else:
                record(source, found, target.parent)
                part.replace(target)
                _forget(part)
                return found
    raise GraceError(
        f"cannot fetch {source.file} ({'; '.join(reasons)}); try again later, or save the file as {target} yourself"
    )


def have_of(target: Path) -> int:
    """Bytes of `target` that an earlier, partial download has left."""
    return _size(_part(target))


def _patiently(url: str, source: Source, part: Path, patience: Patience) -> None:
    """Call `_once` until the download is complete; raise `GiveUp` after `attempts` calls in a row without a new byte."""
    failures = 0
    while True:
        before = _size(part)
        try:
            return _once(url, source, part, patience.timeout)
        except TryAgain as why:
            failures = 1 if _size(part) > before else failures + 1
            if failures >= patience.attempts:
                raise GiveUp(f"{why} ({failures} attempts)") from None
            wait = min(max(why.wait, 2.0 ** (failures - 1)), patience.longest_wait)
            say(f"{url}: {why}; retrying in {wait:.0f} s", sys.stderr)
            patience.sleep(wait)


def _once(url: str, source: Source, part: Path, timeout: float) -> None:
    """Send one request and append the response to the partial download; return when it is complete."""
    have = _resumable(url, source, part)
    if source.size is not None and have == source.size:
        return
    # no transparent compression, which would change length and checksum
    headers = {"User-Agent": "grace-download", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        version = read_json(_note(part), "note of a part")["version"]
        if version:
            headers["If-Range"] = version
    try:
        with build_opener().open(Request(url, headers=headers), timeout=timeout) as answer:
            _receive(url, answer, have, source, part)
    except HTTPError as error:
        if error.code == 416 and have:  # no bytes follow: the download is complete, or the file has changed
            if _total(error.headers.get("Content-Range", "")) == have:
                return
            _forget(part)
            raise TryAgain("the partial download no longer matches the file and was deleted") from None
        said = f"HTTP {error.code} {error.reason}"
        if error.code in AGAIN:
            raise TryAgain(said, _seconds(error.headers.get("Retry-After"))) from None
        raise GiveUp(said) from None
    except ContentTooShortError as error:
        raise TryAgain(str(error.reason)) from None
    except URLError as error:
        if url.startswith("file:") or isinstance(error.reason, ssl.SSLCertVerificationError):
            raise GiveUp(str(error.reason)) from None
        raise TryAgain(str(error.reason)) from None
    except (http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError) as error:
        raise TryAgain(f"the connection broke ({type(error).__name__}: {error})") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise GraceError(
                f"the disk of {part.parent} is full; free some space and run again to resume {part}"
            ) from None
        raise


def _receive(url: str, answer, have: int, source: Source, part: Path) -> None:
    """Append a response's bytes to the `have` bytes of the part, or start over if the server ignored Range."""
    status = getattr(answer, "status", None)
    ranged = status == 206
    if ranged and not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
        _forget(part)
        raise TryAgain(f"the server sent a different range than requested ({answer.headers.get('Content-Range')})")
    start = have if ranged else 0
    length = answer.headers.get("Content-Length", "")
    total = start + int(length) if length.isdigit() else None
    if source.size is not None and total is not None and total != source.size:
        raise GiveUp(f"the server announces {total:,} bytes, but the file has {source.size:,}")
    total = source.size if source.size is not None else total
    check_space(part.parent, (total or 0) - start + source.unpacked_bytes, source.file, RESERVE)
    version = answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""
    # a weak ETag may stand for two different files; If-Range does not accept it
    write_json(_note(part), {"url": url, "version": "" if version.startswith("W/") else version})
    done = start
    with (
        open(part, "ab" if start else "wb") as file,
        progress(total=total, done=start, desc=f"fetch {source.file}", unit=BYTES) as bar,
    ):
        while block := answer.read(BLOCK):
            done += len(block)
            if source.size is not None and done > source.size:
                raise GiveUp(f"the server sent more than the file's {source.size:,} bytes")
            file.write(block)
            bar.update(len(block))
    if total is not None and done < total:
        raise TryAgain(f"the connection broke after {done:,} of {total:,} bytes")


def _resumable(url: str, source: Source, part: Path) -> int:
    """Bytes of the partial download that this URL can resume from; one that it cannot resume is deleted."""
    have = _size(part)
    if have:
        note = _note(part)
        begun_at = read_json(note, "note of a part").get("url") if note.exists() else None
        # with a known checksum a mirror may resume another's download: a mixture would be detected
        if (begun_at != url and not source.sha256) or (source.size is not None and have > source.size):
            _forget(part)
            return 0
        if begun_at != url:
            write_json(note, {"url": url, "version": ""})
    return have


def _total(content_range: str) -> int | None:
    """N of `bytes */N`."""
    number = content_range.rpartition("/")[2]
    return int(number) if number.isdigit() else None


def _seconds(retry_after: str | None) -> float:
    return float(retry_after) if retry_after and retry_after.isdigit() else 0.0


def _part(target: Path) -> Path:
    return target.with_name(target.name + ".part")


def _note(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _forget(part: Path) -> None:
    part.unlink(missing_ok=True)
    _note(part).unlink(missing_ok=True)


@contextmanager
def _alone(part: Path):
    """Hold a lock while the partial download is written, so that two processes never write to one file."""
    lock = part.with_name(f".{part.name}.lock")
    with open(lock, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise GraceError(f"another process is fetching {part}; wait for it to finish") from None
        yield
