"""Commands from embeddings to a run: captioner, pseudo_queries, identifiers, trie, train, retrieve."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grace.cli.options import (
    Dataset,
    Embeddings,
    IdentifiersFolder,
    Model,
    Output,
    Queries,
    Scheme,
    Seed,
    Settings,
    State,
    Tokenizer,
    Trie,
    Val,
    parsed,
    recorded,
)
from grace.system.errors import GraceError
from grace.workflow.config import Atomic, Captioner, Flamingo, Identifiers, PseudoQueries, Retrieve, Section, Training

app = typer.Typer()
trie_app = typer.Typer(invoke_without_command=True)
app.add_typer(trie_app, name="trie")


class _CaptionerSettings(Section):
    flamingo: Flamingo = Flamingo()
    training: Captioner = Captioner()


class _TrainSettings(Section):
    flamingo: Flamingo = Flamingo()
    training: Training = Training()
    atomic_head: Atomic = Atomic()


@app.command("captioner")
def captioner_command(
    dataset: Dataset,
    tokenizer: Tokenizer,
    embeddings: Embeddings,
    output: Output,
    state: State,
    settings: Settings = "{}",
) -> None:
    """Train the captioner (settings: {"flamingo": ..., "training": ...})."""
    from grace.system.threads import leave_busy_cores
    from grace.training.captioner import captioner

    given = parsed(_CaptionerSettings, settings)
    said = given.model_dump(mode="json")
    reads = {"dataset": dataset, "tokenizer": tokenizer, "embeddings": embeddings}
    leave_busy_cores()
    with recorded("captioner", reads=reads, writes=[output], settings=said, seed=given.training.seed):
        captioner(**reads, output=output, state=state, flamingo=given.flamingo, training=given.training)


@app.command("pseudo_queries")
def pseudo_queries_command(
    dataset: Dataset,
    output: Output,
    embeddings: Path | None = None,
    captioner: Path | None = None,
    tower: Path | None = None,
    settings: Settings = "{}",
    val: Val = False,
) -> None:
    """Write captions of every gallery image with the captioner, borrow them of the train split, or take them from a file."""
    from grace.captions.pseudo_queries import pseudo_queries

    given = parsed(PseudoQueries, settings)
    reads = {"dataset": dataset, "embeddings": embeddings, "captioner": captioner, "tower": tower}
    said = {**given.model_dump(mode="json"), "val": val}
    with recorded("pseudo_queries", reads=reads, writes=[output], settings=said):
        pseudo_queries(**reads, output=output, settings=given, val=val)


@app.command("identifiers")
def identifiers_command(
    scheme: Scheme,
    seed: Seed,
    dataset: Dataset,
    tokenizer: Tokenizer,
    embeddings: Embeddings,
    pseudo_queries: Queries,
    output: Output,
    settings: Settings = "{}",
    val: Val = False,
) -> None:
    """Assign an identifier to every train and test image."""
    from grace.identifiers import identifiers

    given = parsed(Identifiers, settings)
    said = {"scheme": scheme, **given.model_dump(mode="json"), "val": val}
    reads = {"dataset": dataset, "tokenizer": tokenizer, "embeddings": embeddings, "pseudo_queries": pseudo_queries}
    with recorded("identifiers", reads=reads, writes=[output], settings=said, seed=seed):
        identifiers(scheme=scheme, seed=seed, **reads, output=output, settings=given, val=val)


@trie_app.callback()
def trie_command(
    context: typer.Context,
    identifiers: Annotated[Path | None, typer.Option(help="identifiers folder (made by `identifiers`)")] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="tokenizer folder (made by `tokenizer`)")] = None,
    output: Annotated[Path | None, typer.Option(help="file to write")] = None,
) -> None:
    """Build the prefix tree of the gallery's identifiers."""
    from grace.identifiers.tree import trie

    if context.invoked_subcommand:
        return
    if identifiers is None or tokenizer is None or output is None:
        raise GraceError("trie: name --identifiers, --tokenizer and --output, or look into one with `trie show`")
    reads = {"identifiers": identifiers, "tokenizer": tokenizer}
    with recorded("trie", reads=reads, writes=[output], settings={}):
        trie(**reads, output=output)


@trie_app.command("show")
def show_command(
    trie: Trie,
    identifiers: IdentifiersFolder,
    tokenizer: Tokenizer,
    prefix: Annotated[str, typer.Argument(help="beginning of an identifier's text; empty: the root")] = "",
    rows: Annotated[int, typer.Option(min=1, help="most children to show")] = 50,
) -> None:
    """Show what stands below the beginning of an identifier: children, identifiers, images."""
    from grace.identifiers.tree.show import show

    show(prefix=prefix, trie=trie, identifiers=identifiers, tokenizer=tokenizer, rows=rows)


@app.command("train")
def train_command(
    scheme: Scheme,
    seed: Seed,
    dataset: Dataset,
    tokenizer: Tokenizer,
    embeddings: Embeddings,
    pseudo_queries: Queries,
    identifiers: IdentifiersFolder,
    output: Output,
    state: State,
    start_from: Annotated[
        Path | None, typer.Option(help="model folder whose weights to start from: the captioner's, or atomic's")
    ] = None,
    tower: Annotated[
        Path | None, typer.Option(help="tower folder whose text embeddings to learn from (distillation)")
    ] = None,
    settings: Settings = "{}",
) -> None:
    """Train one scheme (settings: {"flamingo": ..., "training": ..., "atomic_head": ...})."""
    from grace.system.threads import leave_busy_cores
    from grace.training.stage import train

    given = parsed(_TrainSettings, settings)
    reads = {
        "dataset": dataset,
        "tokenizer": tokenizer,
        "embeddings": embeddings,
        "pseudo_queries": pseudo_queries,
        "identifiers": identifiers,
        "start_from": start_from,
        "tower": tower,
    }
    said = {"scheme": scheme, **given.model_dump(mode="json")}
    leave_busy_cores()
    with recorded("train", reads=reads, writes=[output], settings=said, seed=seed):
        train(
            scheme=scheme,
            seed=seed,
            **reads,
            output=output,
            state=state,
            flamingo=given.flamingo,
            training=given.training,
            atomic_head=given.atomic_head,
        )


@app.command("retrieve")
def retrieve_command(
    dataset: Dataset,
    embeddings: Embeddings,
    identifiers: IdentifiersFolder,
    trie: Trie,
    model: Model,
    output: Output,
    settings: Settings = "{}",
) -> None:
    """Decode the test captions under the trie; write run.trec, retrieval.json and certificates.parquet."""
    from grace.retrieval.stage import retrieve

    given = parsed(Retrieve, settings)
    reads = {"dataset": dataset, "embeddings": embeddings, "identifiers": identifiers, "trie": trie, "model": model}
    writes = [output / "run.trec", output / "retrieval.json", output / "certificates.parquet"]
    with recorded("retrieve", reads=reads, writes=writes, settings=given.model_dump(mode="json")):
        retrieve(**reads, output=output, settings=given)
