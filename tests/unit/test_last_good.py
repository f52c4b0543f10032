"""The second names of outputs that a run is going to replace."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from grace.records.sidecars.last_good import forget, put_back, set_aside
from grace.records.sidecars.sidecar import sidecar_of
from grace.system.errors import GraceError


@pytest.fixture
def outputs(tmp_path) -> tuple[Path, Path]:
    """A folder and a file as stages write them, with their records."""
    folder, file = tmp_path / "model", tmp_path / "trie.safetensors"
    (folder / "below").mkdir(parents=True)
    (folder / "below/weights").write_text("weights")
    (folder / "link").symlink_to("below/weights")
    file.write_text("tree")
    for output in (folder, file):
        sidecar_of(output).write_text(f"record of {output.name}")
    return folder, file


def content(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): path.read_text() for path in sorted(root.rglob("*")) if path.is_file()}


def delete(*outputs: Path) -> None:
    """As Snakemake deletes the outputs of a job, and `recorded` the record of a file that is made again."""
    for output in outputs:
        if output.is_dir():
            shutil.rmtree(output)
        else:
            sidecar_of(output).unlink(missing_ok=True)
            output.unlink()


@pytest.fixture(params=["hard links", "no hard links"])
def links(request, monkeypatch) -> bool:
    if request.param == "no hard links":

        def refuse(*_: object, **__: object) -> None:
            raise OSError(errno.EPERM, "Operation not permitted")

        monkeypatch.setattr(os, "link", refuse)
    return request.param == "hard links"


def test_what_was_deleted_comes_back(outputs, tmp_path, links) -> None:
    before, times = content(tmp_path), [path.stat().st_mtime_ns for path in outputs]
    set_aside(outputs)
    assert all(path.exists() == links for path in outputs)
    if links:
        delete(*outputs)
    assert [put_back(path) for path in outputs] == [True, True]
    assert content(tmp_path) == before and (outputs[0] / "link").is_symlink()
    assert [path.stat().st_mtime_ns for path in outputs] == times


def test_what_was_made_again_stays(outputs, tmp_path) -> None:
    folder, file = outputs
    set_aside(outputs)
    delete(*outputs)
    folder.mkdir()
    (folder / "new").write_text("new")
    file.write_text("new")
    forget(folder)
    assert [put_back(path) for path in outputs] == [False, False]
    assert content(tmp_path) == {"model/new": "new", "trie.safetensors": "new"}


def test_what_was_never_deleted_stays(outputs, tmp_path) -> None:
    before = content(tmp_path)
    set_aside(outputs)
    assert [put_back(path) for path in outputs] == [False, False] and content(tmp_path) == before


def test_a_killed_run_leaves_the_second_name_to_the_next(outputs, tmp_path) -> None:
    before = content(tmp_path)
    set_aside(outputs)
    delete(*outputs)
    set_aside(outputs)  # the next run
    assert all(put_back(path) for path in outputs) and content(tmp_path) == before
    set_aside(outputs)  # killed before it deleted anything
    set_aside(outputs)
    assert not any(put_back(path) for path in outputs) and content(tmp_path) == before


def test_a_disk_that_refuses_is_told_in_words(outputs, monkeypatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    for name in ("link", "mkdir", "makedirs", "replace"):
        monkeypatch.setattr(os, name, refuse)
    with pytest.raises(
        GraceError, match=r"cannot keep a copy of .*model while it is made again: Read-only file system"
    ):
        set_aside(outputs)
