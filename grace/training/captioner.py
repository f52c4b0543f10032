"""The stage `captioner`: the same Flamingo, trained to write captions of the train images.

Reads the dataset, tokenizer and embeddings folders; writes a model folder, as `train` does. It makes the pseudo-queries, and
the schemes may start from its weights.

    python -m grace captioner --dataset ... --tokenizer ... --embeddings ... --output results/scenes/captioner
"""

from __future__ import annotations

from pathlib import Path

from grace.data.tables import load_dataset
from grace.identifiers.base import read_tokenizer
from grace.model.flamingo import build
from grace.model.language_models import local_files
from grace.model.prompts import Prompts, check_queries
from grace.model.published import load_flamingo
from grace.records.stage import stage
from grace.towers.embeddings import load_embeddings
from grace.training.pools import caption_pools
from grace.training.stage import about, run
from grace.training.state import SAYS_NOTHING_OF_THE_RESULT, state_key
from grace.workflow.config import Captioner, Flamingo


@stage("captioner")
def captioner(
    *,
    dataset: Path,
    tokenizer: Path,
    embeddings: Path,
    output: Path,
    state: Path,
    flamingo: Flamingo,
    training: Captioner,
) -> None:
    """Train the captioner and write its model folder."""
    tables, words = load_dataset(dataset), read_tokenizer(tokenizer)
    vectors = load_embeddings(embeddings, len(tables.images))
    model = build(flamingo, words, vectors.width)
    if flamingo.checkpoint:
        load_flamingo(Path(flamingo.checkpoint), model, flamingo.language_model == "pretrained")
    queries = tables.captions_of("test")["text"].tolist()
    check_queries(Prompts(words), queries, 1, model.max_length, "test caption")  # asked for after all of the trainings
    pools = caption_pools(tables, Prompts(words), training.retrieve_batch, model.max_length)
    settings = [flamingo.model_dump(), training.model_dump(exclude=set(SAYS_NOTHING_OF_THE_RESULT))]
    read = [embeddings / "visual_tokens.npy", embeddings / "encode.json", dataset / "captions.parquet"]
    read += [tokenizer / "tokenizer.json", *([Path(flamingo.checkpoint)] if flamingo.checkpoint else [])]
    read += local_files(flamingo)
    key = state_key("captioner", settings, read)
    config = {
        "scheme": "caption",
        "seed": training.seed,
        "flamingo": flamingo.model_dump(),
        "visual_width": vectors.width,
        "new_tokens": 0,
        **about(tables, embeddings),
    }
    run("captioner", model, pools, "caption", training.seed, vectors, words, training, state, key, output, config)
