"""The stage `pseudo_queries`: captions of the gallery images, written by the captioner, borrowed, or given in a file.

Reads the dataset and embeddings folders and the captioner's or the tower's, or a Parquet, CSV or JSONL table with image_id and
text; writes `pseudo_queries.parquet` (image_id, text, score = log-probability in nats) and `pseudo_queries.json`. Gold captions
of gallery images are never read here. Where trainings are validated (`--val`), val images have pseudo-queries as well.

`nearest` borrows captions of the train split: of a gallery image those that the tower would retrieve it for. As captioning by
nearest neighbours (Devlin et al., arXiv 1505.04467) it needs no captioner; as training data it hands the tower's judgement
of which gallery images fit a caption on to the model (distillation by pseudo-labels), with as many captions of every image, so
that an image which the tower finds for everything or for nothing counts no more than others.

    python -m grace pseudo_queries --dataset ... --embeddings ... --captioner ... --output results/scenes/pseudo_queries
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from grace.data.tables import DatasetTables, load_dataset
from grace.data.text_tables import rows_of
from grace.data.texts import check_whole
from grace.records.provenance import provenance
from grace.records.stage import stage
from grace.system.errors import GraceError
from grace.system.files import check_output_folder, need, read_table, replacing_folder, write_json, write_table
from grace.workflow.config import PseudoQueries

TEXTS_AT_ONCE = 1024
ROUNDS = 20  # times that an image whose samples repeat or do not end is asked again


@stage("pseudo_queries")
def pseudo_queries(
    *, dataset: Path, embeddings: Path | None, captioner: Path | None, tower: Path | None = None, output: Path,
    settings: PseudoQueries, val: bool = False,
) -> None:  # fmt: skip
    """Write `settings.per_image` different pseudo-queries of every gallery image, with `val` of every val image too."""
    check_output_folder(output, "pseudo_queries")
    tables = load_dataset(dataset)
    images = pd.concat([tables.gallery, tables.images_of("val")]) if val else tables.gallery
    if settings.source == "file":
        table = from_file(Path(settings.file), images)
    elif settings.source == "nearest":
        if tower is None or embeddings is None:
            raise GraceError("pseudo_queries.source is nearest: name the folders with --tower and --embeddings")
        table = from_train_captions(tables, images, embeddings, tower, settings.per_image)
    elif captioner is None or embeddings is None:
        raise GraceError("pseudo_queries.source is captioner: name the folders with --captioner and --embeddings")
    else:
        table = from_captioner(images, len(tables.images), embeddings, captioner, settings)
    per_image = table.groupby("image_id").size().reindex(images["image_id"], fill_value=0)
    with replacing_folder(output, "pseudo_queries") as folder:
        write_table(folder / "pseudo_queries.parquet", table)
        counts = {
            "source": settings.source,
            "images": len(per_image),
            "pseudo_queries": len(table),
            "fewest": int(per_image.min()),
            "most": int(per_image.max()),
        }
        write_json(folder / "pseudo_queries.json", {**counts, "provenance": provenance(settings.model_dump())})


def from_file(path: Path, images: pd.DataFrame) -> pd.DataFrame:
    """A given table of pseudo-queries, checked: every one of `images` has one at least, no other image has any."""
    need(path, "table of pseudo-queries")
    if path.suffix == ".parquet":
        table = read_table(path, "table of pseudo-queries", ["image_id", "text"])
    elif path.suffix.lower() not in (".csv", ".tsv", ".jsonl"):
        raise GraceError(f"table of pseudo-queries {path} must end in .parquet, .csv, .tsv or .jsonl")
    else:
        rows = []
        for where, row in rows_of(path, "table of pseudo-queries", {"image_id": "", "text": ""}, optional=("score",)):
            if type(row["image_id"]) is int:  # as JSON may have it
                row["image_id"] = str(row["image_id"])
            if row["text"] != row["text"]:  # NaN: what pandas writes for none
                row["text"] = None
            if not isinstance(row["image_id"], str) or not isinstance(row["text"], str | None):
                raise GraceError(f"{where}: image_id and text must be texts")
            check_whole(row["text"] or "", where)
            rows.append(row)
        table = pd.DataFrame(rows, columns=list(rows[0]) if rows else ["image_id", "text"], dtype=object)
    lacking = {"image_id", "text"} - set(table.columns)
    if not lacking:  # stripped as identifiers are: blanks at the ends make no other text
        table["text"] = table["text"].map(lambda text: str(text).strip() or None, na_action="ignore")
    if lacking or table[["image_id", "text"]].isna().any().any():
        raise GraceError(f"table of pseudo-queries {path} must have image_id and text in every row")
    gallery, named = set(images["image_id"]), set(table["image_id"])
    if named - gallery:
        raise GraceError(f"table of pseudo-queries {path} names {min(named - gallery)}, which is no gallery image")
    if gallery - named:
        raise GraceError(
            f"table of pseudo-queries {path} has none for {len(gallery - named)} images, such as {min(gallery - named)}"
        )
    if "score" not in table.columns:
        table["score"] = float("nan")
    try:
        table["score"] = table["score"].replace("", None).astype(float)
    except (TypeError, ValueError) as error:
        raise GraceError(
            f"table of pseudo-queries {path}: the column score holds something that is no number ({error})"
        ) from None
    return table[["image_id", "text", "score"]].drop_duplicates(["image_id", "text"])


def from_train_captions(
    tables: DatasetTables, images: pd.DataFrame, embeddings: Path, tower: Path, per_image: int
) -> pd.DataFrame:
    """Of every one of `images` the `per_image` different train captions that single it out, the best first.

    A caption's score for an image is the log-probability of the image among all of them, by the tower's cosines and its
    learned temperature, nats.
    """
    from grace.towers import open_tower
    from grace.towers.text_side import embeddings_of, encode_captions

    texts = list(dict.fromkeys(tables.captions_of("train")["text"]))
    if len(texts) < per_image:
        raise GraceError(
            f"pseudo_queries.per_image is {per_image}, but the train split has {len(texts)} different captions; lower it"
        )
    model = open_tower(tower)
    captions_MD = torch.from_numpy(encode_captions(texts, model.encode_text, TEXTS_AT_ONCE))
    images_ND = torch.from_numpy(embeddings_of(images, tables, embeddings))
    scores, rows = torch.empty(0, len(images_ND)), torch.empty(0, len(images_ND), dtype=torch.long)
    for start in range(0, len(texts), TEXTS_AT_ONCE):  # of millions of captions the whole matrix fits no memory
        here_MN = (captions_MD[start : start + TEXTS_AT_ONCE] @ images_ND.T / model.temperature).log_softmax(1)
        best, chosen = here_MN.topk(min(per_image, len(here_MN)), dim=0)
        scores, order = torch.cat([scores, best]).topk(min(per_image, len(scores) + len(best)), dim=0)
        rows = torch.cat([rows, chosen + start]).gather(0, order)
    names = images["image_id"].tolist()
    return pd.DataFrame(
        [
            (image, texts[row], score)
            for image, best, where in zip(names, scores.T.tolist(), rows.T.tolist(), strict=True)
            for score, row in zip(best, where, strict=True)
        ],
        columns=["image_id", "text", "score"],
    )


def from_captioner(
    wanted: pd.DataFrame, rows: int, embeddings: Path, captioner: Path, settings: PseudoQueries
) -> pd.DataFrame:
    """Sample, or search by beam, `per_image` different texts for every image of `wanted`, whose index is the row of the `rows`
    embeddings."""
    from grace.captions.decoding import beam_captions, sample_captions
    from grace.model.checkpoints import load_model
    from grace.model.prompts import Prompts
    from grace.towers.embeddings import load_embeddings

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, words, config = load_model(captioner, device)
    if config["scheme"] != "caption":
        raise GraceError(f"model {captioner} is of the scheme {config['scheme']}, not a captioner")
    vectors = load_embeddings(embeddings, rows)
    prompts = Prompts(words)
    images = wanted["image_id"].tolist()
    row_of = dict(zip(images, wanted.index.tolist(), strict=True))
    generator = torch.Generator(device).manual_seed(settings.seed)
    found: dict[str, dict[str, float]] = {image: {} for image in images}
    for _ in range(ROUNDS if settings.method == "sample" else 1):
        lacking = [image for image in images for _ in range(settings.per_image - len(found[image]))]
        if settings.method == "beam":
            lacking = images
        if not lacking:
            break
        for start in tqdm(
            range(0, len(lacking), settings.batch_size), desc="pseudo-queries", unit="batch", disable=None
        ):
            chosen = lacking[start : start + settings.batch_size]
            media = model.resample(vectors.visual([row_of[image] for image in chosen]).to(device))
            if settings.method == "sample":
                written = sample_captions(model, prompts, media, settings.temperature, settings.max_tokens, generator)
            else:
                written = beam_captions(model, prompts, media, settings.per_image, settings.max_tokens)
            for place, text, score in written:
                if text and len(found[chosen[place]]) < settings.per_image:
                    found[chosen[place]].setdefault(text, score)
    empty = [image for image in images if not found[image]]
    if empty:
        raise GraceError(
            f"the captioner finishes no caption of {len(empty)} images, such as {empty[0]}: train it longer, or raise max_tokens"
        )
    rows = [(image, text, score) for image in images for text, score in found[image].items()]
    return pd.DataFrame(rows, columns=["image_id", "text", "score"])
