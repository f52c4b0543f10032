"""The command search: one's own words to a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grace.cli.options import Settings, parsed
from grace.workflow.config import Retrieve

app = typer.Typer()


@app.command("search")
def search_command(
    captions: Annotated[list[str], typer.Argument(help="what is to be seen on the photo; several, each in quotes")],
    system: Annotated[
        Path,
        typer.Option(
            help="folder of the trained system, or one that holds no other, such as results/scenes/atomic/seed0"
        ),
    ] = Path("results"),
    top: Annotated[int, typer.Option(min=1, help="photos a caption")] = 5,
    gallery_only: Annotated[
        bool,
        typer.Option("--gallery-only", help="search the test images alone, as retrieve does; else train images too"),
    ] = False,
    picture: Annotated[
        Path | None, typer.Option(help="new PNG, JPEG or WebP file that what is found is drawn into")
    ] = None,
    settings: Settings = "{}",
) -> None:
    """Search a trained model's images by your own words (settings: retrieve, over those of the system's run)."""
    from grace.retrieval.ask import search

    given = parsed(Retrieve, settings)
    search(captions=captions, system=system, top=top, settings=given, gallery_only=gallery_only, picture=picture)
