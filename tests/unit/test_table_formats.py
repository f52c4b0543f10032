"""The Recall table as Markdown, LaTeX and CSV, and the rows of a system with several seeds."""

from __future__ import annotations

import csv
import io
import json
import re
from statistics import mean, stdev

import pytest
from rich.console import Console

from grace.evaluation.comparison import KEY as COMPARISON
from grace.evaluation.measures import MEASURES
from grace.evaluation.sheets import Cell, Sheet, csv_text, latex, markdown, print_sheet
from grace.evaluation.stage import read_rows
from grace.evaluation.table import show
from grace.system.files import write_json
from tests.unit.test_cli import grace, refused
from tests.unit.test_report import make_results

# A name and a note that every format must escape, or its reader would take them for marks.
HOSTILE = Sheet(
    "50 % of a_b & c",
    ("R@1", "a|b"),
    [("x_1 & y", [Cell("1.0", "0.5–1.5", best=True), Cell("−2.0*", "p <0.001")]), ("{z}~^\\", [Cell("–"), Cell("2", "± 1")])],
    ["100 % sure: #1 costs $5 – `ü` [x]\nsecond line"],
)  # fmt: skip


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """metrics.json of a baseline, a scheme with three seeds, and another with one (its other seeds are left out)."""
    folder = tmp_path_factory.mktemp("several")
    path = make_results(folder, schemes=("atomic", "structured"), seeds=(0, 1, 2))["results"] / "metrics.json"
    rows = [row for row in read_rows(path) if row["system"] != "structured" or row["seed"] == 0]
    write_json(path, rows)
    return path


def cells(line: str) -> list[str]:
    """The cells of a line of a LaTeX table."""
    assert line.endswith(r" \\")
    return re.split(r"(?<!\\)&", line.removesuffix(r"\\"))


def test_latex_has_the_lines_of_booktabs_and_a_cell_for_every_column(several, capsys):
    show(several, "latex")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == r"% needs \usepackage{booktabs}"
    body = [line for line in lines if not line.startswith("%")]
    assert body[0] == r"\begin{tabular}{l" + "r" * (len(MEASURES) + 3) + "}"
    assert (body[1], body[3], body[-2:]) == (r"\toprule", r"\midrule", [r"\bottomrule", r"\end{tabular}"])
    rows = [body[2], *body[4:-2]]
    assert all(len(cells(line)) == len(MEASURES) + 4 for line in rows)
    labels = [cells(line)[0].strip() for line in rows]
    assert labels == [
        "system", "baseline", "structured", "atomic, seed 0", "atomic, seed 1", "atomic, seed 2", "atomic, mean of 3",
    ]  # fmt: skip
    assert "".join(lines).isascii()


def test_latex_escapes_names_and_notes():
    text = latex(HOSTILE)
    assert text.isascii()
    body = [line for line in text.splitlines() if not line.startswith("%")]
    rows = [line for line in body if line.endswith(r"\\")]
    assert cells(rows[1])[0] == r"x\_1 \& y " and cells(rows[1])[1].strip() == r"\textbf{1.0} {\scriptsize (0.5--1.5)}"
    assert cells(rows[1])[2].strip() == r"$-$2.0* {\scriptsize (p $<$0.001)}"
    assert cells(rows[2])[0] == r"\{z\}\textasciitilde{}\textasciicircum{}\textbackslash{} "
    assert cells(rows[2])[1].strip() == "--" and cells(rows[2])[2].strip() == r"2 {\scriptsize ($\pm$ 1)}"
    # Outside of comments no character is left that LaTeX reads as a command, but those written here.
    rest = re.sub(r"\\[&%$#_{}]|\\[a-z]+(\{[a-z]*\})?|\$(-|<|\\pm)\$", "", "\n".join(body))
    assert not re.search(r"[%$#_~^]", rest)
    notes = [line for line in text.splitlines() if line.startswith("%")]
    assert len(notes) == 3 and "second line" in notes[2]  # a line break in a note does not end its comment


def test_markdown_has_a_cell_for_every_column_and_escapes_marks(several, capsys):
    show(several, "markdown")
    text = capsys.readouterr().out
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 2 + 6 and all(len(re.split(r"(?<!\\)\|", line)) == len(MEASURES) + 4 + 2 for line in table)
    assert table[1] == "| --- |" + " ---: |" * (len(MEASURES) + 3)
    lines = markdown(HOSTILE).splitlines()
    assert "| system | R@1 | a\\|b |" in lines and "| x\\_1 & y | **1.0** (0.5–1.5) | −2.0\\* (p \\<0.001) |" in lines


@pytest.mark.parametrize(("form", "bold"), [("latex", r"\\textbf\{([\d.]+)\}"), ("markdown", r"\*\*([\d.]+)\*\*")])
def test_the_best_system_of_every_measure_is_bold_by_its_mean(several, capsys, form, bold):
    """No seed of several is picked: the best is a system, and its mean is marked."""
    rows = read_rows(several)
    systems = {name: [row for row in rows if row["system"] == name] for name in ("baseline", "structured", "atomic")}
    show(several, form)
    shown = ("baseline", "structured", "mean of 3", "seed")
    lines = [line for line in capsys.readouterr().out.splitlines() if any(name in line for name in shown)]
    lines = [line for line in lines if "Setting" not in line and "Of several" not in line]
    marked = [
        (re.split(r"[|&]", line.removeprefix("| "))[0].strip(), value)
        for line in lines
        for value in re.findall(bold, line)
    ]
    expected = []
    for measure in MEASURES:
        means = {name: mean(row[measure] for row in own) for name, own in systems.items()}
        top = max(means.values())
        for name in (name for name, value in means.items() if value == top):
            expected.append(("atomic, mean of 3" if name == "atomic" else name, f"{100 * top:.1f}"))
    assert sorted(marked) == sorted(expected) and len(marked) >= len(MEASURES)


def unflattened(row: dict[str, str], like: dict) -> dict:
    """A row of metrics.json from a line of the CSV, with the types and keys of `like`."""

    def value(name: str, pattern):
        if isinstance(pattern, dict):
            return {key: value(f"{name}.{key}", part) for key, part in pattern.items()}
        if isinstance(pattern, list):
            return [float(row[f"{name}.{end}"]) for end in ("low", "high")]
        if pattern is None:
            return None if row.get(name, "") == "" else row[name]
        return type(pattern)(row[name])

    return {key: value(key, pattern) for key, pattern in like.items()}


def test_csv_reads_back_to_every_value_of_metrics_json(several, capsys):
    show(several, "csv")
    read = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    rows = {(row["system"], str(row["seed"])): row for row in read_rows(several)}
    assert len(read) == len(rows) == 5
    for line in read:
        own = rows[line["system"], line["seed"] or "None"]
        assert unflattened(line, own) == own
        # and nothing else: what this row lacks is empty
        filled = {name for name, text in line.items() if text}
        assert all(name.split(".")[0] in own for name in filled)
    assert "comparison.R@1.p_seeds_holm" in read[0] and "versus_baseline" not in read[0]


def test_csv_quotes_and_keeps_what_only_some_rows_have():
    text = csv_text([{"a": 'x, "y"\nz', "part": None}, {"a": "b", "part": {"low": 0.1, "pair": [1 / 3, 2]}, "c": None}])
    rows = list(csv.reader(io.StringIO(text)))
    assert rows[0] == ["a", "part.low", "part.pair.low", "part.pair.high", "c"]
    assert rows[1:] == [['x, "y"\nz', "", "", "", ""], ["b", "0.1", repr(1 / 3), "2", ""]]


def test_a_mean_with_its_deviation_stands_below_the_seeds(several):
    out = io.StringIO()
    show(several, console=Console(file=out, width=80))
    text = out.getvalue()
    assert "…" not in text and max(map(len, text.splitlines())) <= 80
    own = [row for row in read_rows(several) if row["system"] == "atomic"]
    lines = text.splitlines()
    place = next(number for number, line in enumerate(lines) if line.startswith("mean of 3"))
    assert [lines[place - 2 * (back + 1)].split()[:2] for back in range(3)] == [
        ["seed", "2"],
        ["seed", "1"],
        ["seed", "0"],
    ]
    values, deviations = lines[place - 1].split(), re.findall(r"± ([\d.]+)", lines[place])
    assert values[0] == "atomic"
    for measure, value, deviation in zip(MEASURES, values[1:], deviations, strict=False):
        assert value == f"{100 * mean(row[measure] for row in own):.1f}"
        assert deviation == f"{100 * stdev(row[measure] for row in own):.1f}"
    assert len(deviations) == len(MEASURES)
    # The comparison is of all seeds: p stands in the row of the mean alone, and each seed has its own difference.
    found = own[0][COMPARISON]["R@1"]
    assert f"{100 * found['difference']:+.1f}" in values[5] and f"p {found['p_seeds_holm']:.3f}" in lines[place]
    for seed, row in enumerate(own):
        above = next(number for number, line in enumerate(lines) if line.startswith(f"seed {seed}"))
        assert lines[above - 1].split()[5] == f"{100 * row['versus_baseline']['R@1']['difference']:+.1f}"
        assert "p " not in lines[above]
    assert "Systems with several seeds also have their mean, with the standard deviation" in " ".join(text.split())


def test_signs_that_a_terminal_lacks_are_spelled_in_ascii():
    for encoding, sign in (("ascii", "+/- 1"), ("utf-8", "± 1")):
        raw = io.BytesIO()
        file = io.TextIOWrapper(raw, encoding=encoding)
        sheet = Sheet("t", ("R@1",), [("a − b", [Cell("–", "± 1")])], ["1–2"])
        print_sheet(sheet, Console(file=file, width=80))
        file.flush()
        text = raw.getvalue().decode(encoding)
        assert sign in text and "a - b" in text and "1-2" in text


def test_the_command(several, tmp_path):
    done = grace("table", "--metrics", several, "--format", "csv")
    assert done.returncode == 0 and done.stdout.startswith("dataset,system,seed,queries,R@1,")
    assert "is not a format; did you mean 'markdown'?" in refused(
        grace("table", "--metrics", several, "--format", "markdow")
    )
    one = json.loads(several.read_text())[0]
    write_json(tmp_path / "one.json", one)
    done = grace("table", "--metrics", tmp_path / "one.json", "--format", "latex")
    assert done.returncode == 0 and "textbf" not in done.stdout  # of one system none is the best
