"""Commands from raw data to embeddings: download, dataset, tokenizer, tower, encode."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grace.cli.options import Dataset, Output, Settings, TowerFolder, parsed
from grace.workflow.config import Flamingo, Folder, Karpathy, Scenes, Tower

dataset_app = typer.Typer(no_args_is_help=True, help="Write the tables of a data set: images, captions, qrels.")
app = typer.Typer()
app.add_typer(dataset_app, name="dataset")


@app.command("download")
def download_command(
    dataset: Annotated[str, typer.Argument(help="flickr8k, flickr30k or coco")],
    data: Annotated[Path, typer.Option(help="folder for the data sets")] = Path("data"),
    sources: Annotated[
        Path | None, typer.Option(help="table of sources to use instead of grace/data/download/sources.csv")
    ] = None,
) -> None:
    """Fetch, verify and unpack a public data set; an interrupted download resumes."""
    from grace.data.download import SOURCES_FILE, download

    for name, path in download(dataset=dataset, data=data, sources=sources or SOURCES_FILE).items():
        print(f"{name}: {path}")


@dataset_app.command("scenes")
def scenes_command(output: Output, settings: Settings = "{}", name: str = "scenes") -> None:
    """Draw the built-in data set."""
    from grace.data import source

    source("scenes")(output=output, settings=parsed(Scenes, settings), name=name)


@dataset_app.command("karpathy")
def karpathy_command(
    json: Annotated[Path, typer.Option(help="Karpathy's JSON file")],
    images: Annotated[Path, typer.Option(help="folder with the images")],
    output: Output,
    settings: Settings = "{}",
    restval: Annotated[str | None, typer.Option(help="COCO's restval split: train or drop")] = None,
    name: str = "karpathy",
) -> None:
    """Read a JSON file in Karpathy's format and check its images."""
    from grace.data import source
    from grace.workflow.config import parse

    given = parsed(Karpathy, settings).model_dump()
    if restval is not None:
        given["restval"] = restval
    chosen = parse(Karpathy, given, "--restval")
    source("karpathy")(json_file=json, images=images, output=output, settings=chosen, name=name)


@dataset_app.command("folder")
def folder_command(
    output: Output,
    images: Annotated[str, typer.Option(help="folder with the images")] = "",
    captions: Annotated[str, typer.Option(help="CSV, TSV or JSONL file, or sidecar")] = "",
    captioner: Annotated[str, typer.Option(help="the captioner that writes captions for images without any")] = "",
    settings: Settings = "{}",
    name: str = "folder",
) -> None:
    """Read any folder of images; options override the settings."""
    from grace.captions.writers import write_captions
    from grace.data import source
    from grace.workflow.config import parse

    given = {"images": images, "captions": captions, "captioner": captioner}
    merged = parsed(Folder, settings).model_dump() | {key: value for key, value in given.items() if value}
    chosen = parse(Folder, merged, "--settings")
    source("folder")(output=output, settings=chosen, name=name, write_captions=write_captions)


@app.command("tokenizer")
def tokenizer_command(dataset: Dataset, output: Output, settings: Settings = "{}") -> None:
    """Make the language model's tokenizer (settings: flamingo)."""
    from grace.model.tokenizer import tokenizer

    tokenizer(dataset=dataset, output=output, settings=parsed(Flamingo, settings))


@app.command("tower")
def tower_command(dataset: Dataset, output: Output, settings: Settings = "{}") -> None:
    """Train or check the vision tower (settings: tower)."""
    from grace.system.threads import leave_busy_cores
    from grace.towers import tower

    given = parsed(Tower, settings)
    leave_busy_cores()
    tower(dataset=dataset, output=output, settings=given)


@app.command("encode")
def encode_command(dataset: Dataset, tower: TowerFolder, output: Output, settings: Settings = "{}") -> None:
    """Encode every image once: embeddings and visual tokens (settings: tower)."""
    from grace.towers.embeddings import encode

    encode(dataset=dataset, tower=tower, output=output, settings=parsed(Tower, settings))
