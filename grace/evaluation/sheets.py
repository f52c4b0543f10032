"""A table of results, and its formats: text for a terminal, Markdown, LaTeX.

Reads and writes no files; used by `python -m grace table` and `compare`. Cells contain typographic signs (en dash, minus,
plus-minus), which each format converts to what its readers can show. `csv_text` writes CSV, with more than a table shows.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from rich import box
from rich.console import Console
from rich.table import Table

from grace.system.errors import GraceError, did_you_mean

Format = Literal["text", "markdown", "latex", "csv"]
FORMATS: tuple[str, ...] = get_args(Format)
NARROW = {"vs. baseline": "vs. base\nline", "memorised": "memor-\nised"}
"""Column names that the text format breaks, so that a table fits into 80 columns of a narrow terminal or a log."""
LATEX = {
    **{mark: f"\\{mark}" for mark in "&%$#_{}"},
    **{"~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "\\": "\\textbackslash{}"},
    **{"<": "$<$", ">": "$>$", "–": "--", "−": "$-$", "±": "$\\pm$"},
}


@dataclass(frozen=True)
class Cell:
    """A value and a detail: its interval, its deviation or its p-value."""

    value: str
    detail: str = ""
    best: bool = False


@dataclass(frozen=True)
class Sheet:
    """A table: the names of its value columns, a label and cells for each row, and the name of the label column."""

    title: str
    head: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]
    notes: Sequence[str] = ()
    corner: str = "system"


def check_format(word: str) -> str:
    """Return `word`, or raise a `GraceError` if it is not a table format."""
    if word not in FORMATS:
        raise GraceError(f"--format {word!r} is not a format{did_you_mean(word, FORMATS)}")
    return word


def print_sheet(sheet: Sheet, console: Console) -> None:
    """The text format: details below the values. rich uses ASCII lines where the terminal cannot show others."""
    plain = str.maketrans({"–": "-", "−": "-", **({"±": "+/-"} if console.options.ascii_only else {})})
    out = Table(title=sheet.title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    out.add_column(sheet.corner)
    for name in sheet.head:
        out.add_column(NARROW.get(name, name), justify="right")
    for label, cells in sheet.rows:
        told = [f"{cell.value}\n{cell.detail}" if cell.detail else cell.value for cell in cells]
        out.add_row(label.replace(", ", "\n").translate(plain), *(text.translate(plain) for text in told))
    console.print(out)
    for note in sheet.notes:
        console.print(note.translate(plain))


def markdown(sheet: Sheet) -> str:
    """A Markdown table (GitHub's), with the notes below it; the best value of a column is bold."""
    lines = [_pipes([sheet.corner, *map(_escaped, sheet.head)]), _pipes(["---", *["---:"] * len(sheet.head)])]
    for label, cells in sheet.rows:
        told = []
        for cell in cells:
            value = f"**{_escaped(cell.value)}**" if cell.best else _escaped(cell.value)
            told.append(f"{value} ({_escaped(cell.detail)})" if cell.detail else value)
        lines.append(_pipes([_escaped(label), *told]))
    notes = [line for note in sheet.notes for line in ("", _escaped(note))]
    return "\n".join([f"**{_escaped(sheet.title)}**", "", *lines, *notes]) + "\n"


def latex(sheet: Sheet) -> str:
    """A LaTeX tabular for the package booktabs, ASCII only; the notes are comments above it, the best value is bold."""
    rows = []
    for label, cells in sheet.rows:
        told = []
        for cell in cells:
            value = f"\\textbf{{{_tex(cell.value)}}}" if cell.best else _tex(cell.value)
            told.append(f"{value} {{\\scriptsize ({_tex(cell.detail)})}}" if cell.detail else value)
        rows.append(" & ".join([_tex(label), *told]) + r" \\")
    head = " & ".join([sheet.corner, *map(_tex, sheet.head)]) + r" \\"
    notes = [f"% {_ascii(note)}" for note in (sheet.title, *sheet.notes)]
    frame = [f"\\begin{{tabular}}{{l{'r' * len(sheet.head)}}}", "\\toprule", head, "\\midrule"]
    return "\n".join(["% needs \\usepackage{booktabs}", *notes, *frame, *rows, "\\bottomrule", "\\end{tabular}"]) + "\n"


def csv_text(rows: Sequence[dict[str, Any]]) -> str:
    """CSV of records: one column per value, dotted names for nested values, numbers in full precision.

    A list of two, such as an interval, becomes `.low` and `.high`; None and missing values are empty.
    """
    flat = [_flat(row) for row in rows]
    names = list(dict.fromkeys(name for row in flat for name in row))
    # A nested value of some records may be None in others, such as the baseline's own `versus_baseline`.
    names = [name for name in names if not any(other.startswith(f"{name}.") for other in names)]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([["" if row.get(name) is None else row[name] for name in names] for row in flat])
    return file.getvalue()


def _flat(value: dict[str, Any], above: str = "") -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key, part in value.items():
        name = f"{above}{key}"
        if isinstance(part, list):
            part = dict(zip(("low", "high"), part, strict=True))
        out |= _flat(part, f"{name}.") if isinstance(part, dict) else {name: part}
    return out


def _pipes(words: Sequence[str]) -> str:
    return f"| {' | '.join(words)} |"


def _escaped(text: str) -> str:
    """Text escaped for Markdown, so that nothing in it starts emphasis, code, a link, HTML or another column."""
    return "".join(f"\\{mark}" if mark in "\\`*_|[]<>" else mark for mark in text)


def _tex(text: str) -> str:
    return "".join(LATEX.get(mark, mark) for mark in text)


def _ascii(text: str) -> str:
    """One comment line, in ASCII, which every input encoding of LaTeX accepts."""
    plain = " ".join(text.split()).translate(str.maketrans({"–": "-", "−": "-", "±": "+/-"}))
    return plain.encode("ascii", "backslashreplace").decode()
