"""The command `ended`: writes the last line of a failed stage's log. The workflow's rules call it; users do not need it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grace.system.stage_log import write_end

app = typer.Typer()


@app.command("ended", hidden=True)
def ended_command(
    code: Annotated[int, typer.Argument(help="exit code of the stage, as the shell gives it")],
    log: Annotated[Path, typer.Argument(help="log of the stage")],
) -> None:
    """Write why a stage ended as the last line of its log, and exit as the stage did."""
    write_end(code, log)
    raise typer.Exit(code)
