"""Commands from runs to the report: baseline, evaluate, metrics, report, table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from grace.cli.options import (
    Dataset,
    Embeddings,
    Output,
    OutputFile,
    Retrieval,
    Run,
    Settings,
    TowerFolder,
    parsed,
)
from grace.workflow.config import Evaluate, Report, Retrieve

app = typer.Typer()


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
    retrieval: Retrieval,
    output: OutputFile,
    baseline: Path | None = None,
    settings: Settings = "{}",
) -> None:
    """Measure one run: R@1/5/10 and MRR@10 with intervals, and the paired test against the baseline's run."""
    from grace.evaluation import evaluate

    evaluate(
        dataset=dataset, run=run, retrieval=retrieval, baseline=baseline, output=output,
        settings=parsed(Evaluate, settings),
    )  # fmt: skip


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

    report(config=config, results=results, output=output, settings=parsed(Report, settings))


@app.command("table")
def table_command(
    metrics: Annotated[Path, typer.Option(help="results/metrics.json")] = Path("results/metrics.json"),
) -> None:
    """Print the Recall table."""
    from grace.evaluation.table import show

    show(metrics)
