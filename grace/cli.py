"""The command line: one command a stage, each a thin call of the function of that name.

Stages are imported when they are called, so that `--help` is quick and the inference environment needs no DeepSpeed. A
user's error is one line on standard error and exit code 2.
"""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from grace.config import (
    Atomic,
    Captioner,
    Evaluate,
    Flamingo,
    Identifiers,
    Karpathy,
    PseudoQueries,
    Report,
    Retrieve,
    Scenes,
    Section,
    Tower,
    Training,
    parse_settings,
)
from grace.errors import GraceError
from grace.schemes import SCHEMES

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="GRACE: generative image retrieval, one command a stage. Every command of the workflow can be run by hand.",
)
dataset_app = typer.Typer(no_args_is_help=True, help="Make the tables of a data set: images, captions, qrels.")
app.add_typer(dataset_app, name="dataset")

Settings = Annotated[str, typer.Option(help="the stage's section of the configuration: inline JSON, or a YAML file")]
Dataset = Annotated[Path, typer.Option(help="dataset folder (made by `dataset`)")]
Tokenizer = Annotated[Path, typer.Option(help="tokenizer folder (made by `tokenizer`)")]
Embeddings = Annotated[Path, typer.Option(help="embeddings folder (made by `encode`)")]
TowerFolder = Annotated[Path, typer.Option("--tower", help="tower folder (made by `tower`)")]
IdentifiersFolder = Annotated[Path, typer.Option("--identifiers", help="identifiers folder (made by `identifiers`)")]
Queries = Annotated[Path, typer.Option("--pseudo-queries", help="pseudo-queries folder (made by `pseudo_queries`)")]
State = Annotated[Path, typer.Option(help="folder of the resumable state; it is deleted when training is complete")]
Output = Annotated[Path, typer.Option(help="folder to write")]
OutputFile = Annotated[Path, typer.Option("--output", help="file to write")]
Trie = Annotated[Path, typer.Option(help="trie file (made by `trie`)")]
Model = Annotated[Path, typer.Option(help="model folder (made by `train`)")]
Run = Annotated[Path, typer.Option(help="TREC run of the system")]
Retrieval = Annotated[Path, typer.Option(help="retrieval.json of the system")]
Scheme = Annotated[str, typer.Option(help=", ".join(SCHEMES))]
Seed = Annotated[int, typer.Option(min=0, help="seed of identifiers and training")]


# typer brings its own copy of click; this is that copy's ClickException, by its public subclass.
CommandLineError: Any = typer.BadParameter.__mro__[2]

# What the machine refuses is not a defect of ours: no permission, no space, a file where a folder should be.
MACHINE_ERRORS = {
    errno.EACCES,
    errno.EPERM,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EEXIST,
    errno.ENOTDIR,
    errno.EISDIR,
}


def _settings(model: type[Section], text: str) -> Any:
    return parse_settings(model, text, "--settings")


@dataset_app.command("scenes")
def scenes_command(output: Output, settings: Settings = "{}", name: str = "scenes") -> None:
    """Draw the built-in data set."""
    from grace.data import source

    source("scenes")(output=output, settings=_settings(Scenes, settings), name=name)


@dataset_app.command("karpathy")
def karpathy_command(
    json: Annotated[Path, typer.Option(help="Karpathy's JSON file")],
    images: Annotated[Path, typer.Option(help="folder of the images")],
    output: Output,
    settings: Settings = "{}",
    restval: Annotated[str | None, typer.Option(help="COCO's restval split: train or drop")] = None,
    name: str = "karpathy",
) -> None:
    """Read a JSON file in Karpathy's format and check its images."""
    from grace.config import parse
    from grace.data import source

    given = _settings(Karpathy, settings).model_dump()
    if restval is not None:
        given["restval"] = restval
    source("karpathy")(
        json_file=json, images=images, output=output, settings=parse(Karpathy, given, "--restval"), name=name
    )


@app.command("tokenizer")
def tokenizer_command(dataset: Dataset, output: Output, settings: Settings = "{}") -> None:
    """Make the language model's tokenizer (settings: flamingo)."""
    from grace.model.tokenizer import tokenizer

    tokenizer(dataset=dataset, output=output, settings=_settings(Flamingo, settings))


@app.command("tower")
def tower_command(dataset: Dataset, output: Output, settings: Settings = "{}") -> None:
    """Train or check the vision tower (settings: tower)."""
    from grace.towers import tower

    tower(dataset=dataset, output=output, settings=_settings(Tower, settings))


@app.command("encode")
def encode_command(dataset: Dataset, tower: TowerFolder, output: Output, settings: Settings = "{}") -> None:
    """Encode every image once: embeddings and visual tokens (settings: tower)."""
    from grace.embeddings import encode

    encode(dataset=dataset, tower=tower, output=output, settings=_settings(Tower, settings))


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
    from grace.captioner import captioner

    given = _settings(_CaptionerSettings, settings)
    captioner(
        dataset=dataset,
        tokenizer=tokenizer,
        embeddings=embeddings,
        output=output,
        state=state,
        flamingo=given.flamingo,
        training=given.training,
    )


@app.command("pseudo_queries")
def pseudo_queries_command(
    dataset: Dataset,
    output: Output,
    embeddings: Path | None = None,
    captioner: Path | None = None,
    settings: Settings = "{}",
) -> None:
    """Write captions of every gallery image with the captioner, or take them from a file."""
    from grace.pseudo_queries import pseudo_queries

    given = _settings(PseudoQueries, settings)
    pseudo_queries(dataset=dataset, embeddings=embeddings, captioner=captioner, output=output, settings=given)


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
) -> None:
    """Assign an identifier to every train and test image."""
    from grace.identifiers import identifiers

    identifiers(
        scheme=scheme,
        seed=seed,
        dataset=dataset,
        tokenizer=tokenizer,
        embeddings=embeddings,
        pseudo_queries=pseudo_queries,
        output=output,
        settings=_settings(Identifiers, settings),
    )


@app.command("trie")
def trie_command(identifiers: IdentifiersFolder, tokenizer: Tokenizer, output: OutputFile) -> None:
    """Build the prefix tree of the gallery's identifiers."""
    from grace.trie import trie

    trie(identifiers=identifiers, tokenizer=tokenizer, output=output)


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
        Path | None, typer.Option(help="model folder whose weights to start from (the captioner's)")
    ] = None,
    settings: Settings = "{}",
) -> None:
    """Train one scheme (settings: {"flamingo": ..., "training": ..., "atomic_head": ...})."""
    from grace.training.stage import train

    given = _settings(_TrainSettings, settings)
    train(
        scheme=scheme,
        seed=seed,
        dataset=dataset,
        tokenizer=tokenizer,
        embeddings=embeddings,
        pseudo_queries=pseudo_queries,
        identifiers=identifiers,
        output=output,
        state=state,
        start_from=start_from,
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
    """Decode the test captions under the trie; write run.trec and retrieval.json."""
    from grace.retrieval.stage import retrieve

    retrieve(
        dataset=dataset,
        embeddings=embeddings,
        identifiers=identifiers,
        trie=trie,
        model=model,
        output=output,
        settings=_settings(Retrieve, settings),
    )


@app.command("baseline")
def baseline_command(
    dataset: Dataset, embeddings: Embeddings, tower: TowerFolder, output: Output, settings: Settings = "{}"
) -> None:
    """Retrieve with the dual encoder and FAISS flat search."""
    from grace.baselines import baseline

    baseline(dataset=dataset, embeddings=embeddings, tower=tower, output=output, settings=_settings(Retrieve, settings))


@app.command("evaluate")
def evaluate_command(
    dataset: Dataset,
    run: Run,
    retrieval: Retrieval,
    output: OutputFile,
    baseline: Path | None = None,
    settings: Settings = "{}",
) -> None:
    """Measure one run: R@1/5/10 and MRR@10 with intervals, and the paired test against the baseline's run."""
    from grace.evaluation import evaluate

    given = _settings(Evaluate, settings)
    evaluate(dataset=dataset, run=run, retrieval=retrieval, baseline=baseline, output=output, settings=given)


@app.command("metrics")
def metrics_command(files: list[Path], output: OutputFile) -> None:
    """Collect metrics.json files into one list of rows."""
    from grace.evaluation import metrics

    metrics(files=files, output=output)


@app.command("report")
def report_command(
    config: Annotated[Path, typer.Option(help="whole configuration, JSON or YAML")],
    results: Annotated[Path, typer.Option(help="folder of all results")],
    output: OutputFile,
    settings: Settings = "{}",
) -> None:
    """Write the report: one HTML file that opens offline."""
    from grace.report import report

    report(config=config, results=results, output=output, settings=_settings(Report, settings))


@app.command("resolve")
def resolve_command(output: OutputFile, settings: Settings) -> None:
    """Write the whole configuration, defaults filled in, as JSON (for the report)."""
    from grace.config import Config
    from grace.files import write_json

    write_json(output, _settings(Config, settings).model_dump())


@app.command("table")
def table_command(
    metrics: Annotated[Path, typer.Option(help="results/metrics.json")] = Path("results/metrics.json"),
) -> None:
    """Print the Recall table."""
    from grace.evaluation.table import show

    show(metrics)


@app.command("config")
def config_command(
    write: Annotated[bool, typer.Option("--write", help="write config.yaml and config/schema.json")] = False,
    drift: Annotated[bool, typer.Option("--drift", help="fail if those two are not what --write would write")] = False,
    check: Annotated[Path | None, typer.Option(help="check a configuration file, laid over the defaults")] = None,
    get: Annotated[str | None, typer.Option(help="print one key of config.yaml, such as train.steps")] = None,
) -> None:
    """Make config.yaml and its JSON schema from the models; check or read a configuration file."""
    from grace.config import load
    from grace.config_export import drifted, value_of, write_all

    if check is not None:
        load(check)
        typer.echo(f"{check}: valid")
    elif get is not None:
        typer.echo(value_of(load(Path("config.yaml")), get))
    elif drift:
        if names := drifted(Path.cwd()):
            raise GraceError(f"{', '.join(names)}: not what grace/config/ says; run python -m grace config --write")
    elif write:
        for path in write_all(Path.cwd()):
            typer.echo(f"wrote {path}")
    else:
        raise GraceError("config: name --write, --drift, --check FILE or --get KEY")


def main() -> None:
    """Run a command; the exit code is 0, 1 (a defect of ours), 2 (a user's error) or 130 (interrupted)."""
    try:
        app(standalone_mode=False)
    except GraceError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(2)
    except OSError as error:
        if error.errno not in MACHINE_ERRORS:
            raise
        print(f"error: {error.strerror}: {error.filename or 'while writing'}", file=sys.stderr)
        sys.exit(2)
    except (typer.Abort, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except CommandLineError as error:  # unknown option, missing option, wrong type; or no command at all: the help
        said = error.format_message()
        print(said if not sys.argv[1:] else f"error: {' '.join(said.split())}", file=sys.stderr)
        sys.exit(2)
