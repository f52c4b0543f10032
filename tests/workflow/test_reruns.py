"""The table of changes against rerun stages in docs/explanation/reliability.md: every row is done, and Snakemake is asked what
it would run.

The stages are stand-ins that only make their outputs, since what runs again depends on paths, parameters and times alone;
`test_tiny_run.py` asks the same of a run of the real stages.
"""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from grace.workflow.stages import STAGES

ROOT = Path(__file__).resolve().parents[2]
TINY = "config/tiny.yaml"


def rows() -> list[tuple[str, dict[str, int]]]:
    """(change, {stage: jobs}) of every row of the documentation's table."""
    text = (ROOT / "docs/explanation/reliability.md").read_text(encoding="utf-8")
    table = text.partition("| change | what runs again |\n")[2].partition("\n\n")[0]
    found = []
    for line in table.splitlines()[1:]:
        _, change, stages, _ = line.split("|")
        counts = re.findall(r"([a-z_]+)(?: × (\d+))?", stages.replace("nothing", ""))
        found.append((change.strip().strip("`"), {stage: int(count or 1) for stage, count in counts}))
    return found


def test_the_table_is_there_and_names_every_stage():
    assert len(rows()) >= 20
    assert {stage for _, stages in rows() for stage in stages} == set(STAGES)


@pytest.mark.parametrize(("change", "expected"), rows(), ids=[change for change, _ in rows()])
def test_exactly_what_depends_on_a_change_runs_again(finished, request, change, expected):
    program, *arguments = shlex.split(change)
    if program == "snakemake":
        assert finished.planned(*arguments, overlays=(TINY,)) == expected
    elif program == "rm":
        copy = request.getfixturevalue("copy")
        shutil.rmtree(copy.folder / arguments[-1]) if arguments[0] == "-r" else (copy.folder / arguments[-1]).unlink()
        assert copy.planned(overlays=(TINY,)) == expected
    else:
        dotted, value = change.split(": ", 1)
        values = yaml.safe_load(value)
        for key in reversed(dotted.split(".")):
            values = {key: values}
        assert finished.planned(overlays=(TINY, finished.overlay("change", values))) == expected


def test_one_stage_again_and_then_the_rest(copy):
    """What a user does after an edit of the trainer: train alone, then the scores, then all; in the end nothing is left to do."""
    again = ("train", "-R", "train_model")
    for arguments, expected in (
        (again, {"train": 2}),
        (("evaluate",), {"retrieve": 2, "evaluate": 2}),
        ((), {"metrics": 1, "report": 1}),
        ((), {}),
    ):
        assert copy.planned(*arguments, overlays=(TINY,)) == expected
        done = copy(*arguments, overlays=(TINY,))
        assert done.returncode == 0, done.stdout + done.stderr
        assert ("report: results-tiny/report/index.html" in done.stdout) == ("report" in expected)


@pytest.mark.parametrize(
    "values",
    [
        {"seeds": [0]},
        {"schemes": ["structured"]},
        {"schemes": ["numeric"], "seeds": [0, 3], "pseudo_queries": {"source": "file", "file": "queries.jsonl"}},
        {"schemes": ["numeric"], "train": {"start_from": "scratch"}},
    ],
)
def test_all_wants_every_output(workflow_in, tmp_path, values):
    """Snakemake leaves a missing file missing if what is made of it is up to date; what `all` wants by name it makes again."""
    workflow = workflow_in(tmp_path)
    (tmp_path / "queries.jsonl").write_text("")
    done = workflow("-n", "-p", overlays=(TINY, workflow.overlay("values", values)))
    assert done.returncode == 0, done.stdout + done.stderr
    said = done.stdout + done.stderr
    made = {path for line in re.findall(r"^    output: (.*)$", said, re.MULTILINE) for path in line.split(", ")}
    wanted = set(re.search(r"rule all:\n    input: (.*)\n", said).group(1).split(", "))
    assert made == wanted and len(made) > 12
