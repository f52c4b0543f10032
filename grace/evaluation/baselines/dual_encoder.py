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

from grace.data.tables import load_dataset
from grace.records.provenance import provenance
from grace.records.stage import stage
from grace.retrieval.folders import BASELINE
from grace.retrieval.nearest import open_nearest
from grace.retrieval.runs import write_run
from grace.system.files import write_json
from grace.system.progress import busy, say
from grace.workflow.config import Retrieve

WRITES = ("run.trec", "retrieval.json")


@stage(
    "baseline",
    outputs=lambda output: [output / name for name in WRITES],
    settings=lambda given: given.model_dump(mode="json", include={"depth", "batch_size"}),
)
def baseline(*, dataset: Path, embeddings: Path, tower: Path, output: Path, settings: Retrieve) -> dict[str, Any]:
    """Search every test caption; write run.trec and retrieval.json into the folder `output`, return the latter.

    `settings.depth` images are kept per query (all of them if the gallery is smaller), and `settings.batch_size` captions are
    encoded at a time. The seconds cover encoding the captions and searching, not loading. Raises `GraceError` if the
    embeddings do not match the data set or the tower.
    """
    tables = load_dataset(dataset)
    captions = tables.captions_of("test")
    say(f"{len(captions):,} queries, {len(tables.gallery):,} images; depth {settings.depth}")
    with busy("loading the tower"):
        searcher = open_nearest(tables, tables.gallery, embeddings, tower)

    start = time.perf_counter()
    with busy("searching the gallery"):
        found = searcher.answers(captions["text"].tolist(), captions["caption_id"].tolist(), settings)
    ranking = found.answers
    seconds = time.perf_counter() - start

    report = {
        "scheme": BASELINE,
        "seed": searcher.seed,
        "queries": len(captions),
        "gallery": len(searcher.image_ids),
        "beams": None,
        "depth": settings.depth,
        "hypotheses": sum(map(len, ranking.values())),
        "invalid": 0,
        "duplicates": 0,
        "failed_queries": 0,
        "valid_rate": 1.0,
        "memorization": None,
        "seconds": round(seconds, 3),
        "provenance": provenance(settings.model_dump()),
    }
    write_run(Path(output) / "run.trec", ranking, BASELINE)
    write_json(Path(output) / "retrieval.json", report)
    return report
