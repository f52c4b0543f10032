"""The stage `retrieve`: every test caption through the trained model, into a TREC run.

Reads the dataset, embeddings, identifiers, trie and model; writes `run.trec`, `retrieval.json` (counts of hypotheses,
invalid and duplicate ones, failed queries, memorisation accuracy) and `certificates.parquet` (query_id, answers:
images found, certified: how many of the first of them are certified exact).

    python -m grace retrieve --dataset ... --model ... --trie ... --output results/scenes/structured/seed0
"""

from __future__ import annotations

import time
from pathlib import Path

import pandas as pd
import torch

from grace.config import Retrieve
from grace.data.tables import load_dataset
from grace.embeddings import load_embeddings
from grace.errors import GraceError
from grace.files import write_json, write_table
from grace.identifiers.base import load_identifiers
from grace.model.checkpoints import load_model
from grace.prompts import Prompts, check_lengths
from grace.provenance import provenance
from grace.retrieval.atomic import atomic_search
from grace.retrieval.generative import generative_search
from grace.retrieval.memorization import memorization
from grace.retrieval.runs import write_run
from grace.trie import Trie


def retrieve(
    *, dataset: Path, embeddings: Path, identifiers: Path, trie: Path, model: Path, output: Path, settings: Retrieve
) -> None:
    """Decode the test captions and write `run.trec`, `retrieval.json` and `certificates.parquet` into `output`."""
    tables = load_dataset(dataset)
    device = _device(settings.device)
    flamingo, words, config = load_model(model, device)
    assigned = load_identifiers(identifiers)
    if config.get("identifiers") != assigned.fingerprint:
        raise GraceError(f"model {model} was trained on other identifiers than {identifiers}; train it again")
    tree = Trie.open(trie)
    tree.check(identifiers)
    vectors = load_embeddings(embeddings, len(tables.images))
    prompts = Prompts(words)
    queries = tables.captions_of("test")
    prompt_ids = prompts.retrieve(queries["text"].tolist())
    check_lengths([len(ids) + tree.depth for ids in prompt_ids], flamingo.max_length, "query with its identifier")
    started = time.perf_counter()
    with torch.inference_mode():
        media = flamingo.resample(vectors.visual([-1]).to(device, next(flamingo.parameters()).dtype))
    search = atomic_search if config["scheme"] == "atomic" else generative_search
    rows, counts, certified = search(
        flamingo, prompt_ids, media, tree.to(device), assigned, settings, queries["caption_id"].tolist()
    )
    seconds = time.perf_counter() - started
    memory = memorization(flamingo, assigned, tables, vectors, prompts, words.pad_token_id)
    write_run(output / "run.trec", rows, tag=config["scheme"])
    summary = {
        "scheme": config["scheme"], "seed": config["seed"], "queries": len(queries), "beams": settings.beams,
        "depth": settings.depth, **counts, "seconds": round(seconds, 3), "memorization": memory["test"],
        "memorization_train": memory["train"], "provenance": provenance(settings.model_dump()),
    }  # fmt: skip
    table = [(query_id, len(answers), certified[query_id]) for query_id, answers in rows.items()]
    write_table(output / "certificates.parquet", pd.DataFrame(table, columns=["query_id", "answers", "certified"]))
    write_json(output / "retrieval.json", summary)


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise GraceError(
            "retrieve.device is cuda but torch sees no GPU; set it to auto or cpu, or install a CUDA build of torch"
        )
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")
