"""Parts of the report as files of their own, for a slide, a spreadsheet or `snakemake --report`: the table and its figure.

Part of `python -m grace report`; writes `table.csv` (every value of every system) and `recall.svg` beside the page.
"""

from __future__ import annotations

import re
from pathlib import Path

from grace.evaluation.sheets import csv_text
from grace.report.figures import recall_figure
from grace.report.inputs import Inputs
from grace.system.files import replacing

TABLE, FIGURE = "table.csv", "recall.svg"


def write_extracts(inputs: Inputs, folder: Path, page_style: str) -> None:
    """Write both files; the figure in the light colours that `page_style` (the page's style sheet) defines."""
    with replacing(folder / TABLE) as temporary:
        temporary.write_text(csv_text([system.row for system in inputs.systems]), encoding="utf-8")
    with replacing(folder / FIGURE) as temporary:
        temporary.write_text(standalone(str(recall_figure(inputs.systems)), page_style), encoding="utf-8")


def standalone(figure: str, page_style: str) -> str:
    """An SVG element of the page as a document of its own: with a namespace, a font, a ground and colours in place of variables."""
    colours: dict[str, str] = {}
    for name, colour in re.findall(r"--([\w-]+): (#[0-9a-f]{6})", page_style):
        colours.setdefault(name, colour)  # the first definition is the light one
    named = re.sub(r"var\(--([\w-]+)\)", lambda found: colours[found[1]], figure)
    start = f'<svg xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" style="background: {colours["card"]}" '
    return re.sub(r'<svg (viewBox="[^"]*") (.*?) style="[^"]*"', rf"{start}\1 \2", named, count=1)
