"""Archives that try to harm: none writes anything but wanted files inside its own folder."""

from __future__ import annotations

import io
import stat
import tarfile
import warnings
import zipfile
from pathlib import Path

import pytest

from grace.data.download.archives import Bounds, unpack_file, unpack_folder
from grace.system.errors import GraceError

WIDE = Bounds(files=10, size=100_000)


def make_zip(path: Path, members: dict[str, bytes], links: dict[str, str] | None = None) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, content in members.items():
            file.writestr(name, content)
        for name, goal in (links or {}).items():
            info = zipfile.ZipInfo(name)
            info.create_system = 3
            info.external_attr = (stat.S_IFLNK | 0o777) << 16
            file.writestr(info, goal)
    return path


def make_tar(path: Path, members: dict[str, bytes], links: dict[str, str] | None = None, kind=tarfile.SYMTYPE) -> Path:
    with tarfile.open(path, "w:gz") as file:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
        for name, goal in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, goal
            file.addfile(info)
    return path


MAKERS = pytest.mark.parametrize("make", [make_zip, make_tar], ids=["zip", "tar"])


def refused(folder: Path, archive: Path, said: str, bounds: Bounds = WIDE) -> None:
    """The archive is an error that says `said`, and nothing but the archive is left."""
    before = {path for path in folder.parent.rglob("*")}
    with pytest.raises(GraceError, match=said) as caught:
        unpack_folder(archive, "*.jpg", folder / "out", bounds)
    assert "\n" not in str(caught.value)
    assert {path for path in folder.parent.rglob("*")} == before


@MAKERS
def test_wanted_files_by_their_base_names(tmp_path, make):
    members = {
        "deep/er/a.jpg": b"a",
        "b.jpg": b"b",
        "readme.txt": b"no",
        "__MACOSX/._b.jpg": b"no",
        "deep/._a.jpg": b"no",
    }
    archive = make(tmp_path / "x", members)
    assert unpack_folder(archive, "*.jpg", tmp_path / "new/out", WIDE) == 2
    assert {path.name: path.read_bytes() for path in (tmp_path / "new/out").iterdir()} == {"a.jpg": b"a", "b.jpg": b"b"}
    unpack_file(archive, "a.jpg", tmp_path / "one.jpg", WIDE)
    assert (tmp_path / "one.jpg").read_bytes() == b"a"
    with pytest.raises(GraceError, match="contains 2 files"):
        unpack_file(archive, "*.jpg", tmp_path / "two.jpg", WIDE)
    assert not (tmp_path / "two.jpg").exists()


@MAKERS
@pytest.mark.parametrize("name", ["../evil.jpg", "/tmp/evil.jpg", "a/../../evil.jpg", "..\\evil.jpg", "C:\\evil.jpg"])
def test_paths_that_lead_out(tmp_path, make, name):
    folder = tmp_path / "in"
    folder.mkdir()
    refused(folder, make(folder / "x", {"good.jpg": b"g", name: b"evil"}), "leads outside its folder")


@MAKERS
def test_links(tmp_path, make):
    folder = tmp_path / "in"
    folder.mkdir()
    refused(folder, make(folder / "x", {"good.jpg": b"g"}, {"link.jpg": "/etc/passwd"}), "a link or a device")


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_hard_links_and_devices(tmp_path, kind):
    folder = tmp_path / "in"
    folder.mkdir()
    refused(folder, make_tar(folder / "x", {"good.jpg": b"g"}, {"other.jpg": "good.jpg"}, kind), "a link or a device")


@MAKERS
def test_bombs(tmp_path, make):
    folder = tmp_path / "in"
    folder.mkdir()
    bomb = make(folder / "x", {"a.jpg": b"\0" * 5_000_000})
    assert bomb.stat().st_size < 20_000
    refused(folder, bomb, "unpacks to")
    many = make(folder / "y", {f"{number}.jpg": b"" for number in range(11)})
    refused(folder, many, "more than 10 files")


def test_a_size_that_lies(tmp_path):
    """The header announces one byte, the member holds a million: copying stops at what is allowed."""
    folder = tmp_path / "in"
    folder.mkdir()
    archive = make_zip(folder / "x", {"a.jpg": b"\0" * 1_000_000})
    content = archive.read_bytes()
    assert content.count((1_000_000).to_bytes(4, "little")) == 2
    archive.write_bytes(content.replace((1_000_000).to_bytes(4, "little"), (1).to_bytes(4, "little")))
    refused(folder, archive, "is broken|more bytes than")


@MAKERS
def test_a_name_that_comes_twice(tmp_path, make):
    folder = tmp_path / "in"
    folder.mkdir()
    refused(folder, make(folder / "x", {"one/a.jpg": b"1", "two/a.jpg": b"2"}), "contains the name a.jpg twice")


@MAKERS
@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_an_archive_that_was_cut(tmp_path, make, keep):
    folder = tmp_path / "in"
    folder.mkdir()
    import random

    archive = make(folder / "x", {f"{number}.jpg": random.Random(number).randbytes(4000) for number in range(8)})
    content = archive.read_bytes()
    archive.write_bytes(content[: int(len(content) * keep)])
    refused(folder, archive, "is broken")


def test_too_few_files(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    archive = make_zip(folder / "x", {"a.jpg": b"1"})
    refused(folder, archive, "contains 1 files .*, expected 2", Bounds(files=4, size=100, at_least=2))


def test_an_encrypted_member(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    archive = make_zip(folder / "x", {"a.jpg": b"1"})
    content = bytearray(archive.read_bytes())
    for mark, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        content[content.index(mark) + place] |= 1
    archive.write_bytes(bytes(content))
    refused(folder, archive, "is encrypted")
