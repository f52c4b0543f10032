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
    leave_busy_cores()
    captioner(
        dataset=dataset, tokenizer=tokenizer, embeddings=embeddings, output=output, state=state,
        flamingo=given.flamingo, training=given.training,
    )  # fmt: skip


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
    """Get captions of every gallery image: from the captioner, from similar train images, or from a file."""
    from grace.captions.pseudo_queries import pseudo_queries

    pseudo_queries(
        dataset=dataset, embeddings=embeddings, captioner=captioner, tower=tower, output=output,
        settings=parsed(PseudoQueries, settings), val=val,
    )  # fmt: skip


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

    identifiers(
        scheme=scheme, seed=seed, dataset=dataset, tokenizer=tokenizer, embeddings=embeddings,
        pseudo_queries=pseudo_queries, output=output, settings=parsed(Identifiers, settings), val=val,
    )  # fmt: skip


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
        raise GraceError("trie: give --identifiers, --tokenizer and --output, or look into a trie with `trie show`")
    trie(identifiers=identifiers, tokenizer=tokenizer, output=output)


@trie_app.command("show")
def show_command(
    trie: Trie,
    identifiers: IdentifiersFolder,
    tokenizer: Tokenizer,
    prefix: Annotated[str, typer.Argument(help="prefix of an identifier's text; empty: the root")] = "",
    rows: Annotated[int, typer.Option(min=1, help="most children to show")] = 50,
) -> None:
    """Show what is below a prefix of an identifier: children, identifiers, images."""
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
        Path | None, typer.Option(help="model folder with the weights to start from: the captioner's or atomic's")
    ] = None,
    tower: Annotated[
        Path | None, typer.Option(help="tower folder with the text embeddings to learn from (distillation)")
    ] = None,
    settings: Settings = "{}",
) -> None:
    """Train one scheme (settings: {"flamingo": ..., "training": ..., "atomic_head": ...})."""
    from grace.system.threads import leave_busy_cores
    from grace.training.stage import train

    given = parsed(_TrainSettings, settings)
    leave_busy_cores()
    train(
        scheme=scheme, seed=seed, dataset=dataset, tokenizer=tokenizer, embeddings=embeddings,
        pseudo_queries=pseudo_queries, identifiers=identifiers, output=output, state=state, flamingo=given.flamingo,
        training=given.training, atomic_head=given.atomic_head, start_from=start_from, tower=tower,
    )  # fmt: skip


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

    retrieve(
        dataset=dataset, embeddings=embeddings, identifiers=identifiers, trie=trie, model=model, output=output,
        settings=parsed(Retrieve, settings),
    )  # fmt: skip
