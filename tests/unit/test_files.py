"""Output folders: what a stage did not make itself is never deleted."""

from __future__ import annotations

from pathlib import Path

import pytest

from grace.system.errors import GraceError
from grace.system.files import replacing_folder


def write(path: Path | str, stage: str = "encode", text: str = "new") -> None:
    with replacing_folder(path, stage) as folder:
        (folder / "made.txt").write_text(text)


def test_an_earlier_output_of_the_stage_is_replaced(tmp_path: Path) -> None:
    write(tmp_path / "out", text="old")
    write(tmp_path / "out")
    assert (tmp_path / "out/made.txt").read_text() == "new"
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty")
    assert (tmp_path / "empty/made.txt").exists()


def test_a_folder_of_somebody_else_is_kept(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years")
    with pytest.raises(GraceError, match="contains files not written by this command"):
        write(tmp_path / "mine")
    write(tmp_path / "dataset", "dataset")
    with pytest.raises(GraceError, match="is an output of the stage dataset"):
        write(tmp_path / "dataset", "tokenizer")
    assert (tmp_path / "mine/thesis.txt").read_text() == "years"
    assert (tmp_path / "dataset/made.txt").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dataset", "mine"]


@pytest.mark.parametrize("name", ["", ".", "..", "../inner"])
def test_the_current_folder_and_what_holds_it_are_kept(tmp_path: Path, monkeypatch, name: str) -> None:
    (tmp_path / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "inner")
    with pytest.raises(GraceError, match="is the current folder or contains it"):
        write(name)
    assert (tmp_path / "inner").is_dir()


def test_an_error_leaves_the_old_output(tmp_path: Path) -> None:
    write(tmp_path / "out", text="old")
    with pytest.raises(RuntimeError), replacing_folder(tmp_path / "out", "encode") as folder:
        (folder / "made.txt").write_text("half")
        raise RuntimeError
    assert (tmp_path / "out/made.txt").read_text() == "old"
