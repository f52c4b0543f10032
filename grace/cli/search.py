"""The command search: find images with a trained model by your own words.

    grace search "a dog runs on the beach" --system results/photos/atomic/seed0 --picture found.png

Prints the images, best first, and with --picture draws them into a new file. Not a stage of the workflow: nothing is recorded.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from grace.cli.options import Settings, parsed
from grace.system.errors import GraceError
from grace.workflow.config import Retrieve

if TYPE_CHECKING:
    from grace.retrieval.found import Found
    from grace.retrieval.system import System

app = typer.Typer()

EXACT = """; --settings '{"search": "exact"}' proves all but ties, and takes longer"""


@app.command("search")
def search_command(
    captions: Annotated[list[str], typer.Argument(help="what the photo shows; several captions, each in quotes")],
    system: Annotated[
        Path,
        typer.Option(
            help="folder of the trained system, or a folder above it that contains no other, such as results/scenes/atomic/seed0"
        ),
    ] = Path("results"),
    top: Annotated[int, typer.Option(min=1, help="photos per caption")] = 5,
    gallery_only: Annotated[
        bool,
        typer.Option(
            "--gallery-only", help="search the test images only, as retrieve does; by default train images too"
        ),
    ] = False,
    picture: Annotated[Path | None, typer.Option(help="new PNG, JPEG or WebP file to draw the results into")] = None,
    settings: Settings = "{}",
) -> None:
    """Search a trained model's images by your own words (settings: retrieve, overriding those of the system's run)."""
    given = parsed(Retrieve, settings)
    search(captions=captions, system=system, top=top, settings=given, gallery_only=gallery_only, picture=picture)


def search(
    *, captions: list[str], system: Path, top: int, settings: Retrieve, gallery_only: bool = False,
    picture: Path | None = None, say: Callable[[str], None] = print,
) -> None:  # fmt: skip
    """Print the `top` images of every caption: rank, score (log-likelihood, nats), file and its first known caption.

    Keys that `settings` does not set are those of the system's run. `picture` must not exist yet.
    """
    from grace.retrieval.opening import open_system
    from grace.retrieval.queries import check_texts

    texts = check_texts(captions)
    given = settings.model_dump(include=settings.model_fields_set)
    if "depth" in given:
        raise GraceError("search: retrieve.depth is set by --top here; remove it from --settings")
    drawn_as = _checked(picture) if picture else ""
    opened = open_system(system, gallery_only=gallery_only, device=given.pop("device", "auto"))
    if picture:
        from grace.retrieval.contact_sheet import check_size

        check_size(len(texts), min(top, len(opened.images)), drawn_as)
    found = opened.ask({str(place): text for place, text in enumerate(texts)}, top, **given)
    _tell(opened, texts, found, gallery_only, given, say)
    if picture:
        _draw(opened, texts, found, picture, drawn_as)
        say(f"\n{picture}")


def _checked(picture: Path) -> str:
    """Pillow's name for the format of `picture`, which must not exist yet, in a folder that does."""
    from grace.retrieval.contact_sheet import image_format

    drawn_as = image_format(picture)
    if picture.exists() or picture.is_symlink():
        raise GraceError(f"picture {picture} already exists; give the name of a new file")
    if not picture.parent.is_dir():
        raise GraceError(f"picture {picture}: there is no folder {picture.parent}; create it, or choose another file")
    return drawn_as


def _tell(
    system: System, texts: list[str], found: Found, gallery_only: bool, given: dict, say: Callable[[str], None]
) -> None:
    """Print what is searched, then the images of every text, and how many of them are proven to be the best."""
    from grace.retrieval.folders import BASELINE
    from grace.system.printable import printable

    known = system.captions.drop_duplicates("image_id").set_index("image_id")["text"]
    files = system.images.set_index("image_id")["file"]
    searched = "images of the gallery (split test)" if gallery_only else "images have an identifier and are searched"
    keys = system.settings(**given)
    provable = system.scheme not in ("atomic", BASELINE) and (keys.search, keys.merge) == ("beam", "max")
    say(f"{system.scheme}, seed {system.seed}: {len(system.images)} of {system.images_in_all} {searched}")
    for text, (query_id, answers) in zip(texts, found.answers.items(), strict=True):
        say(f"\n{printable(text)}")
        for rank, (image, score) in enumerate(answers, start=1):
            told = " ".join(str(known.get(image, "")).split())
            say(printable(f"{rank:3d} {score:8.2f}  {files[image]}  {told}".rstrip()))
        proven = found.certified[query_id] if found.certified else len(answers)
        if proven < len(answers):
            part = f"the first {proven}" if proven else "none"
            hint = EXACT if provable else ""
            say(f"      {part} of these {len(answers)} are proven to be the best{hint}")


def _draw(system: System, texts: list[str], found: Found, picture: Path, drawn_as: str) -> None:
    """Write the contact sheet; the file appears whole or not at all."""
    from grace.retrieval.contact_sheet import Tile, contact_sheet
    from grace.system.files import replacing

    files = system.images.set_index("image_id")["file"]
    rankings = zip(texts, found.answers.values(), strict=True)
    rows = [(text, [Tile(Path(files[image]), score) for image, score in answers]) for text, answers in rankings]
    with replacing(picture) as temporary:
        contact_sheet(rows).save(temporary, format=drawn_as)
