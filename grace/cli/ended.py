"""The command `ended`: the last line of the log of a stage that failed. The workflow's rules call it; by hand it is of no use."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from grace.system.ending import last_line, reason

app = typer.Typer()

FULL = 1 << 20
"""Free bytes below which a disk counts as full: a stage writes more than that."""
UNWRITTEN = (1, 120)  # a traceback; Python could not write its last words
TOLD = (2, 75, 130)  # the stage has written its reason as the last line itself


@app.command("ended", hidden=True)
def ended_command(
    code: Annotated[int, typer.Argument(help="exit code of the stage, as the shell gives it")],
    log: Annotated[Path, typer.Argument(help="log of the stage")],
) -> None:
    """Write why a stage ended as the last line of its log, and exit as the stage did."""
    if code not in TOLD and not last_line(log).startswith("ended: "):
        free = shutil.disk_usage(log.parent).free
        said = f"ended: {reason(code)}"
        if code in UNWRITTEN and free < FULL:  # its traceback would stand in the log, if there were room
            said = f"ended: exit code {code}: no space left on the disk of {log.parent} ({free // 1024} KiB are free); make room"
        try:
            with open(log, "a", encoding="utf-8") as file:
                file.write(f"{said}\n")
        except OSError as error:
            print(f"{said} (and {log} cannot be written: {error.strerror})", file=sys.stderr)
    raise typer.Exit(code)
