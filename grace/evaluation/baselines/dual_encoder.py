"""The baseline: a dual encoder and exact nearest-neighbour search (FAISS flat index, inner product).

Reads {d}/dataset/, {d}/embeddings/image_embeddings.npy and {d}/tower/, writes run.trec and retrieval.json.

    python -m grace baseline --dataset DIR --embeddings DIR --tower DIR --output DIR --settings JSON

The queries are the test captions, encoded by the text side of the tower; the gallery is the test images. Embeddings
have length 1, so the inner product is the cosine.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from grace.data.tables import load_dataset
from grace.records.provenance import provenance
from grace.records.stage import stage
from grace.retrieval.runs import write_run
from grace.system.errors import GraceError
from grace.system.files import write_json
from grace.system.progress import busy, say
from grace.towers.text_side import embeddings_of, encode_captions
from grace.workflow.config import Retrieve

TAG = "baseline"
WRITES = ("run.trec", "retrieval.json")


@stage(
    "baseline",
    outputs=lambda output: [output / name for name in WRITES],
    settings=lambda given: given.model_dump(mode="json", include={"depth", "batch_size"}),
)
def baseline(*, dataset: Path, embeddings: Path, tower: Path, output: Path, settings: Retrieve) -> dict[str, Any]:
    """Search every test caption; write run.trec and retrieval.json into the folder `output`, return the latter.

    `settings.depth` images are kept of every query (all, if the gallery is smaller), `settings.batch_size` captions are
    encoded at a time. The seconds count encoding the captions and searching, not loading. Raises `GraceError` if the
    embeddings and the data set or the tower do not fit each other.
    """
    from grace.towers import open_tower  # loads torch

    tables = load_dataset(dataset)
    gallery_ND = embeddings_of(tables.gallery, tables, embeddings)
    captions = tables.captions_of("test")
    say(f"{len(captions):,} queries, {len(gallery_ND):,} images; depth {settings.depth}")
    with busy("loading the tower"):
        encoder = open_tower(Path(tower))

    start = time.perf_counter()
    queries_QD = encode_captions(captions["text"].tolist(), encoder.encode_text, settings.batch_size)
    if queries_QD.shape[1] != gallery_ND.shape[1]:
        raise GraceError(
            f"tower {tower} makes text embeddings of {queries_QD.shape[1]} dimensions, the image embeddings in "
            f"{embeddings} "
            f"have {gallery_ND.shape[1]}; they come from different towers: encode the images again"
        )
    with busy("searching the gallery"):
        scores, rows = search(gallery_ND, queries_QD, settings.depth)
    seconds = time.perf_counter() - start

    images = tables.gallery["image_id"].to_numpy(dtype=object)
    ranking = {
        caption: list(zip(images[found], score.tolist(), strict=True))
        for caption, found, score in zip(captions["caption_id"], rows, scores, strict=True)
    }
    report = {
        "scheme": TAG,
        "seed": getattr(encoder, "seed", None),
        "queries": len(captions),
        "gallery": len(images),
        "beams": None,
        "depth": settings.depth,
        "hypotheses": int(rows.size),
        "invalid": 0,
        "duplicates": 0,
        "failed_queries": 0,
        "valid_rate": 1.0,
        "memorization": None,
        "seconds": round(seconds, 3),
        "provenance": provenance(settings.model_dump()),
    }
    write_run(Path(output) / "run.trec", ranking, TAG)
    write_json(Path(output) / "retrieval.json", report)
    return report


def search(gallery_ND: np.ndarray, queries_QD: np.ndarray, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """Exact search: scores float32 and gallery rows int64, both [queries, min(depth, gallery)], best first."""
    import faiss

    index = faiss.IndexFlatIP(gallery_ND.shape[1])
    index.add(gallery_ND)
    return index.search(queries_QD, min(depth, len(gallery_ND)))
