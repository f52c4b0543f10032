"""Commands about how results were made: provenance, retime, verify."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grace.system.errors import GraceError

app = typer.Typer()
MOST = 20
"""Findings printed without --all."""


@app.command("provenance")
def provenance_command(file: Annotated[Path, typer.Argument(help="a file or folder that a stage wrote")]) -> None:
    """Print how a file was made, back to the sources: stage, environment, machine, time, hashes."""
    from grace.records.sidecars.chain import chain

    for line in chain(file):
        typer.echo(line)


@app.command("retime")
def retime_command(
    results: Annotated[Path, typer.Argument(help="folder of results")] = Path("results"),
) -> None:
    """Set the time of files that are dated in the future (the clock was ahead) to now."""
    from grace.system.clock import retime
    from grace.system.files import need

    found = retime(need(results, "folder of results"))
    typer.echo(f"{results}: {len(found)} files were dated in the future; their time is now the current time")


@app.command("verify")
def verify_command(
    results: Annotated[Path, typer.Argument(help="folder of results")] = Path("results"),
    every: Annotated[bool, typer.Option("--all", help="print all findings")] = False,
) -> None:
    """Hash every result again and list what is not as its stage wrote it."""
    from grace.records.sidecars.verify import verify

    hashed, problems = verify(results)
    for problem in problems if every else problems[:MOST]:
        typer.echo(problem)
    if len(problems) > MOST and not every:
        typer.echo(f"... and {len(problems) - MOST} more; --all prints them")
    if problems:
        raise GraceError(f"{results}: {len(problems)} finding(s) above; the other files are as their stages wrote them")
    typer.echo(f"{results}: {hashed} files are as their stages wrote them")
