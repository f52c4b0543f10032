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
from grace.system.progress import busy
from grace.towers.embeddings import load_embeddings
from grace.training.job import Job, settings_with_effect
from grace.training.pools import caption_pools
from grace.training.run import about, run
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
    """Train the captioner and write its model folder; resume from `state` if it holds an unfinished run."""
    tables, words = load_dataset(dataset), read_tokenizer(tokenizer)
    vectors, prompts = load_embeddings(embeddings, len(tables.images)), Prompts(words)
    checkpoint = [Path(flamingo.checkpoint)] if flamingo.checkpoint else []
    with busy("making the model"):
        model = build(flamingo, words, vectors.width)
        for path in checkpoint:
            load_flamingo(path, model, flamingo.language_model == "pretrained")
    queries = tables.captions_of("test")["text"].tolist()
    check_queries(prompts, queries, 1, model.max_length, "test caption")  # asked for after all of the trainings
    pools = caption_pools(tables, prompts, training.retrieve_batch, model.max_length)
    read = [embeddings / "visual_tokens.npy", embeddings / "encode.json", dataset / "captions.parquet"]
    read += [tokenizer / "tokenizer.json", *checkpoint, *local_files(flamingo)]
    config = {
        "scheme": "caption",
        "seed": training.seed,
        "flamingo": flamingo.model_dump(),
        "visual_width": vectors.width,
        "new_tokens": 0,
        **about(tables, embeddings),
    }
    run(Job(
        stage="captioner", model=model, pools=pools, objective="caption", seed=training.seed, embeddings=vectors,
        words=words, training=training, output=output, state=state, config=config,
        settings=[flamingo.model_dump(), settings_with_effect(training)], inputs=read,
    ))  # fmt: skip
