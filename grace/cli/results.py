"""Commands from runs to the report: baseline, evaluate, metrics, report, table, compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grace.cli.options import (
    Dataset,
    Embeddings,
    Output,
    OutputFile,
    Run,
    Settings,
    TowerFolder,
    parsed,
)
from grace.workflow.config import Evaluate, Report, Retrieve, parse

app = typer.Typer()

Retrieval = Annotated[Path | None, typer.Option(help="retrieval.json of the system")]
TableFormat = Annotated[str, typer.Option("--format", help="text, markdown, latex or csv")]


@app.command("baseline")
def baseline_command(
    dataset: Dataset, embeddings: Embeddings, tower: TowerFolder, output: Output, settings: Settings = "{}"
) -> None:
    """Retrieve with the dual encoder and FAISS flat search."""
    from grace.evaluation.baselines import baseline

    baseline(dataset=dataset, embeddings=embeddings, tower=tower, output=output, settings=parsed(Retrieve, settings))


@app.command("evaluate")
def evaluate_command(
    dataset: Dataset,
    run: Run,
    output: OutputFile,
    retrieval: Retrieval = None,
    name: Annotated[
        str | None, typer.Option(help="instead of --retrieval: the name of a run of another method")
    ] = None,
    baseline: Annotated[Path | None, typer.Option(help="the baseline's TREC run")] = None,
    settings: Settings = "{}",
) -> None:
    """Measure one run: R@1/5/10 and MRR@10 with intervals, and the paired test against the baseline's run."""
    from grace.evaluation import evaluate
    from grace.evaluation.foreign import foreign_notes

    row = evaluate(
        dataset=dataset, run=run, retrieval=retrieval, name=name, baseline=baseline, output=output,
        settings=parsed(Evaluate, settings),
    )  # fmt: skip
    for note in foreign_notes([row]):
        print(note)


@app.command("metrics")
def metrics_command(files: list[Path], output: OutputFile) -> None:
    """Collect metrics.json files into one list of rows."""
    from grace.evaluation import metrics

    metrics(files=files, output=output)


@app.command("report")
def report_command(
    config: Annotated[Path, typer.Option(help="the whole configuration, JSON or YAML")],
    results: Annotated[Path, typer.Option(help="the results folder")],
    output: OutputFile,
    settings: Settings = "{}",
) -> None:
    """Write the report: one HTML file that opens offline."""
    from grace.report import report

    report(config=config, results=results, output=output, settings=parsed(Report, settings))


@app.command("table")
def table_command(
    metrics: Annotated[Path, typer.Option(help="results/metrics.json")] = Path("results/metrics.json"),
    form: TableFormat = "text",
) -> None:
    """Print the Recall table."""
    from grace.evaluation.sheets import check_format
    from grace.evaluation.table import show

    show(metrics, check_format(form))


@app.command("compare")
def compare_command(
    a: Annotated[Path, typer.Argument(metavar="A.trec", help="TREC run")],
    b: Annotated[Path, typer.Argument(metavar="B.trec", help="TREC run to compare it with")],
    qrels: Annotated[Path | None, typer.Option(help="TREC qrels: the relevant image of every query")] = None,
    dataset: Annotated[Path | None, typer.Option(help="instead of --qrels: dataset folder (made by `dataset`)")] = None,
    measures: Annotated[
        str, typer.Option(help="R@K and MRR@K with any K, separated by commas")
    ] = "R@1,R@5,R@10,MRR@10",
    resamples: Annotated[int, typer.Option(min=1, help="bootstrap and permutation resamples")] = 10_000,
    confidence: Annotated[float, typer.Option(help="coverage of the intervals")] = 0.95,
    seed: Annotated[int, typer.Option(min=0, help="seed of the resampling")] = 0,
    form: TableFormat = "text",
) -> None:
    """Compare two runs: measures with intervals, their paired difference with its p-value, queries won and lost."""
    from grace.evaluation.compare import compare, show
    from grace.evaluation.sheets import check_format

    check_format(form)
    given = parse(Evaluate, {"resamples": resamples, "confidence": confidence, "seed": seed}, "compare")
    names = list(dict.fromkeys(name for name in measures.replace(" ", "").split(",") if name))
    show(compare((a, b), qrels=qrels, dataset=dataset, measures=names, settings=given), given, form)
