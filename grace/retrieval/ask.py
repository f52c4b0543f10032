"""The command `search`: one's own words in, photographs out.

Reads a trained system's folder (model, identifiers, tree) and the data set and embeddings beside it; prints the images, best first,
and draws them side by side into a picture where one is asked for. No stage of the workflow: nothing is recorded.

    python -m grace search "a dog runs on the beach" --system results/photos/atomic/seed0 --picture found.png
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from grace.config import Retrieve
from grace.data.tables import load_dataset
from grace.errors import GraceError
from grace.files import need, replacing
from grace.retrieval.contact_sheet import Found, contact_sheet, image_format
from grace.retrieval.searcher import open_searcher

DEPTHS = ("model", "seed*/model", "*/seed*/model", "*/*/seed*/model")
"""Where a model folder lies below a system's folder, a scheme's, a data set's and that of all results."""


def search(
    *, captions: list[str], system: Path, top: int, settings: Retrieve, gallery_only: bool = False,
    picture: Path | None = None, say: Callable[[str], None] = print,
) -> None:  # fmt: skip
    """Say the `top` images of every caption: rank, score (log-probability, nats), file and its first known caption."""
    asked = [" ".join(caption.split()) for caption in captions]
    if not all(asked):
        raise GraceError("search: a caption is empty; say what is to be seen on the photo")
    drawn_as = image_format(picture) if picture else ""
    folder = system_folder(system)
    tables = load_dataset(folder.parent.parent / "dataset")
    searcher = open_searcher(
        tables, folder.parent.parent / "embeddings", folder / "identifiers", folder / "trie.safetensors",
        folder / "model", settings.device,
    )  # fmt: skip
    if not gallery_only:
        searcher = searcher.among_all()
    query_ids = [str(place) for place in range(len(asked))]
    enough = settings.model_copy(update={"depth": top, "beams": max(settings.beams, top)})
    rows, _, _ = searcher.answers(asked, query_ids, enough)
    files = tables.images.set_index("image_id")["file"]
    known = tables.captions.drop_duplicates("image_id").set_index("image_id")["text"]
    whose = "images of the gallery (split test)" if gallery_only else "images that the model has identifiers for"
    say(f"{searcher.config['scheme']}, seed {searcher.config['seed']}: {len(searcher.tree.image_ids)} {whose}")
    found = []
    for caption, query_id in zip(asked, query_ids, strict=True):
        say(f"\n{caption}")
        found.append((caption, [Found(tables.image_path(files[image]), score) for image, score in rows[query_id]]))
        for rank, (image, score) in enumerate(rows[query_id], start=1):
            told = " ".join(str(known.get(image, "")).split())
            say(f"{rank:3d} {score:8.2f}  {tables.image_path(files[image])}  {told}".rstrip())
    if picture:
        with replacing(picture) as temporary:
            contact_sheet(found).save(temporary, format=drawn_as)
        say(f"\n{picture}")


def system_folder(place: Path) -> Path:
    """The folder of the one trained system in `place`, which may be that folder or hold it; a `GraceError` names the choice."""
    need(place, "results folder")
    found = sorted({path.parent for pattern in DEPTHS for path in place.glob(pattern) if path.is_dir()})
    if not found:
        raise GraceError(f"{place} holds no trained model; run snakemake first, or name another folder with --system")
    if len(found) > 1:
        raise GraceError(f"{place} holds several trained models; name one with --system: {', '.join(map(str, found))}")
    return found[0]
