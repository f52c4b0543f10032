"""The command `search`: one's own words in, photographs out.

Reads a trained system's folder (model, identifiers, tree, the settings of its run), the data set and embeddings beside it; prints
the images, best first, and draws them into a new picture where one is asked for. No stage of the workflow: nothing is recorded.

    python -m grace search "a dog runs on the beach" --system results/photos/atomic/seed0 --picture found.png
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from grace.data.tables import load_dataset
from grace.retrieval.contact_sheet import Found, check_size, contact_sheet, image_format
from grace.retrieval.searcher import open_searcher
from grace.system.errors import GraceError
from grace.system.files import need, read_json, replacing
from grace.system.printable import printable
from grace.workflow.config import Retrieve, parse

DEPTHS = ("model", "seed*/model", "*/seed*/model", "*/*/seed*/model")
"""Where a model folder lies below a system's folder, a scheme's, a data set's and that of all results."""
EXACT = """; --settings '{"search": "exact"}' proves all but ties, and takes longer"""


def search(
    *, captions: list[str], system: Path, top: int, settings: Retrieve, gallery_only: bool = False,
    picture: Path | None = None, say: Callable[[str], None] = print,
) -> None:  # fmt: skip
    """Say the `top` images of every caption: rank, score (log-probability, nats), file and its first known caption.

    What `settings` does not set is as in the run of the system. A file `picture` that is there already is refused.
    """
    asked = [" ".join(caption.split()) for caption in captions]
    if not all(asked):
        raise GraceError("search: a caption is empty; say what is to be seen on the photo")
    if any("\ud800" <= letter <= "\udfff" for caption in asked for letter in caption):
        raise GraceError("search: a caption is no UTF-8; type it in a terminal that writes UTF-8")
    if "depth" in settings.model_fields_set:
        raise GraceError("search: retrieve.depth is named by --top here; leave it out of --settings")
    drawn_as = image_format(picture) if picture else ""
    if picture and (picture.exists() or picture.is_symlink()):
        raise GraceError(
            f"picture {picture} is there already; name a file that is not (what is found is drawn into it)"
        )
    if picture and not picture.parent.is_dir():
        raise GraceError(f"picture {picture}: there is no folder {picture.parent}; make it, or name another file")
    folder = system_folder(system)
    data, keys = folder.parent.parent, _settings(folder, settings)
    tables = load_dataset(data / "dataset")
    searcher = open_searcher(
        tables, data / "embeddings", folder / "identifiers", folder / "trie.safetensors", folder / "model", keys.device
    )
    searcher = searcher if gallery_only else searcher.among_all()
    top = min(top, len(searcher.tree.image_ids))
    if picture:
        check_size(len(asked), top, drawn_as)
    query_ids = [str(place) for place in range(len(asked))]
    # As many beams as the run had, which were those for its own depth (see `generative_search`).
    enough = keys.model_copy(update={"depth": top, "beams": max(keys.beams, keys.depth)})
    rows, _, certified = searcher.answers(asked, query_ids, enough)
    known = tables.captions.drop_duplicates("image_id").set_index("image_id")["text"]
    files = tables.images.set_index("image_id")["file"]
    said = "images of the gallery (split test)" if gallery_only else "images have an identifier and are searched"
    say(
        f"{searcher.config['scheme']}, seed {searcher.config['seed']}: {len(searcher.tree.image_ids)} of "
        f"{len(tables.images)} {said}"
    )
    found = []
    for caption, query_id in zip(asked, query_ids, strict=True):
        answers, proven = rows[query_id], certified[query_id]
        say(f"\n{printable(caption)}")
        for rank, (image, score) in enumerate(answers, start=1):
            told = " ".join(str(known.get(image, "")).split())
            say(printable(f"{rank:3d} {score:8.2f}  {tables.image_path(files[image])}  {told}".rstrip()))
        if proven < len(answers):
            part = f"the first {proven}" if proven else "none"
            can_be = searcher.config["scheme"] != "atomic" and (keys.search, keys.merge) == ("beam", "max")
            hint = EXACT if can_be else ""
            say(f"      {part} of these {len(answers)} are proven to be the best{hint}")
        found.append((caption, [Found(tables.image_path(files[image]), score) for image, score in answers]))
    if picture:
        with replacing(picture) as temporary:
            contact_sheet(found).save(temporary, format=drawn_as)
        say(f"\n{picture}")


def system_folder(place: Path) -> Path:
    """The folder of the one trained system in `place`, which may be that folder, its model or hold it; else a `GraceError`."""
    place = need(place, "results folder").absolute()
    found = {path.parent for pattern in DEPTHS for path in place.glob(pattern) if path.is_dir()}
    if (place / "model.safetensors").is_file() and place.name == "model":
        found = {place.parent}
    if not found:
        raise GraceError(f"{place} holds no trained model; run snakemake first, or name another folder with --system")
    if len(found) > 1:
        names = ", ".join(map(str, sorted(found)))
        raise GraceError(f"{place} holds several trained models; name one with --system: {names}")
    folder = found.pop()
    return folder if (folder.parent.parent / "dataset").exists() else folder.resolve()  # a link to it from elsewhere


def _settings(folder: Path, given: Retrieve) -> Retrieve:
    """Those that the system's run was made with, on the device that there is, with those given laid over them."""
    run = folder / "retrieval.json"
    said = read_json(run, "summary of the run") if run.exists() else {}
    made_with = said.get("provenance", {}).get("settings", {})
    values = {**made_with, "device": "auto", **given.model_dump(include=given.model_fields_set)}
    return parse(Retrieve, values, f"settings of {run}")
