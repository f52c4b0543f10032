"""The command `ended`: the last line of the log of a stage that failed. The workflow's rules call it; by hand it is of no use."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grace.ending import last_line, reason

app = typer.Typer()

TOLD = (2, 75, 130)  # the stage has written its reason as the last line itself


@app.command("ended", hidden=True)
def ended_command(
    code: Annotated[int, typer.Argument(help="exit code of the stage, as the shell gives it")],
    log: Annotated[Path, typer.Argument(help="log of the stage")],
) -> None:
    """Write why a stage ended as the last line of its log, and exit as the stage did."""
    if code not in TOLD and not last_line(log).startswith("ended: "):
        with open(log, "a", encoding="utf-8") as file:
            file.write(f"ended: {reason(code)}\n")
    raise typer.Exit(code)
