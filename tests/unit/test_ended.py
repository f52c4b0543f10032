"""The last line of a log of a stage that failed, written by the workflow where the stage could not."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from grace.cli.ended import FULL, app


@pytest.mark.parametrize(
    ("code", "free", "before", "last"),
    [
        (137, FULL, "step 3\n", "ended: SIGKILL: killed from outside"),
        (1, FULL, "Traceback\n", "ended: exit code 1: a bug in the stage"),
        (1, FULL - 1, "", "ended: exit code 1: no space left on the disk of "),
        (120, FULL - 1, "step 3\n", "ended: exit code 120: no space left on the disk of "),
        (2, FULL, "error: no such file\n", "error: no such file"),
        (143, FULL, "ended: SIGTERM: asked to end\n", "ended: SIGTERM: asked to end"),
    ],
)
def test_the_last_line_says_why(tmp_path, monkeypatch, code: int, free: int, before: str, last: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=free))
    log = tmp_path / "train.log"
    log.write_text(before)
    assert CliRunner().invoke(app, [str(code), str(log)]).exit_code == code
    said = log.read_text()
    assert said.startswith(before) and said.splitlines()[-1].startswith(last)


def test_a_log_that_cannot_be_written_is_said_elsewhere(tmp_path) -> None:
    (tmp_path / "train.log").mkdir()
    done = CliRunner().invoke(app, ["137", str(tmp_path / "train.log")])
    assert done.exit_code == 137 and "ended: SIGKILL" in done.output and "cannot be written" in done.output
