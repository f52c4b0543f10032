"""The stage `retrieve`: search every test caption with the trained model and write a TREC run.

Reads the dataset, embeddings, identifiers, trie and model; writes `run.trec`, `retrieval.json` (counts of hypotheses,
invalid and duplicate ones, failed queries, memorisation accuracy) and `certificates.parquet` (query_id, answers:
number of images found, certified: how many of the first are certified exact).

    python -m grace retrieve --dataset ... --model ... --trie ... --output results/scenes/structured/seed0
"""

from __future__ import annotations

import time
from pathlib import Path

import pandas as pd

from grace.data.tables import load_dataset
from grace.model.prompts import Prompts
from grace.records.provenance import provenance
from grace.records.stage import stage
from grace.retrieval.memorization import memorization
from grace.retrieval.runs import write_run
from grace.retrieval.searcher import open_searcher
from grace.system.files import write_json, write_table
from grace.system.progress import busy, say
from grace.workflow.config import Retrieve

WRITES = ("run.trec", "retrieval.json", "certificates.parquet")


@stage("retrieve", outputs=lambda output: [output / name for name in WRITES])
def retrieve(
    *, dataset: Path, embeddings: Path, identifiers: Path, trie: Path, model: Path, output: Path, settings: Retrieve
) -> None:
    """Decode the test captions and write `run.trec`, `retrieval.json` and `certificates.parquet` into `output`."""
    tables = load_dataset(dataset)
    queries = tables.captions_of("test")
    say(f"{len(queries):,} queries, {len(tables.gallery):,} images; {settings.search} search, {settings.beams} beams")
    with busy("loading the model and the trie"):
        searcher = open_searcher(tables, embeddings, identifiers, trie, model, settings.device)
    config = searcher.config
    started = time.perf_counter()
    found = searcher.answers(queries["text"].tolist(), queries["caption_id"].tolist(), settings)
    seconds = time.perf_counter() - started
    words = searcher.words
    memory = memorization(
        searcher.flamingo, searcher.assigned, tables, searcher.vectors, Prompts(words), words.pad_token_id
    )
    write_run(output / "run.trec", found.answers, tag=config["scheme"])
    summary = {
        "scheme": config["scheme"], "seed": config["seed"], "queries": len(queries), "beams": settings.beams,
        "depth": settings.depth, **found.counts.summary(), "seconds": round(seconds, 3), "memorization": memory["test"],
        "memorization_train": memory["train"], "provenance": provenance(settings.model_dump()),
    }  # fmt: skip
    table = [(query_id, len(answers), found.certified[query_id]) for query_id, answers in found.answers.items()]
    write_table(output / "certificates.parquet", pd.DataFrame(table, columns=["query_id", "answers", "certified"]))
    write_json(output / "retrieval.json", summary)
