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
    recorded,
)
from grace.workflow.config import Evaluate, Report, Retrieve

app = typer.Typer()


@app.command("baseline")
def baseline_command(
    dataset: Dataset, embeddings: Embeddings, tower: TowerFolder, output: Output, settings: Settings = "{}"
) -> None:
    """Retrieve with the dual encoder and FAISS flat search."""
    from grace.evaluation.baselines import baseline

    given = parsed(Retrieve, settings)
    reads = {"dataset": dataset, "embeddings": embeddings, "tower": tower}
    writes = [output / "run.trec", output / "retrieval.json"]
    said = given.model_dump(mode="json", include={"depth", "batch_size"})
    with recorded("baseline", reads=reads, writes=writes, settings=said):
        baseline(**reads, output=output, settings=given)


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
    from grace.evaluation.stage import PER_QUERY

    given = parsed(Evaluate, settings)
    reads = {"dataset": dataset, "run": run, "retrieval": retrieval, "baseline": baseline}
    writes = [output, output.with_name(PER_QUERY)]
    with recorded("evaluate", reads=reads, writes=writes, settings=given.model_dump(mode="json")):
        evaluate(**reads, output=output, settings=given)


@app.command("metrics")
def metrics_command(files: list[Path], output: OutputFile) -> None:
    """Collect metrics.json files into one list of rows."""
    from grace.evaluation import metrics
    from grace.evaluation.stage import PER_QUERY

    values = [file.with_name(PER_QUERY) for file in files]
    with recorded("metrics", reads={str(file): file for file in [*files, *values]}, writes=[output], settings={}):
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
    from grace.report.decoding import FILE as BENCHMARK

    given = parsed(Report, settings)
    benchmark = Path(given.benchmark) if given.benchmark else results / BENCHMARK
    reads = {"config": config, "metrics": results / "metrics.json", "benchmark": benchmark}
    with recorded("report", reads=reads, writes=[output], settings=given.model_dump(mode="json")):
        report(config=config, results=results, output=output, settings=given)


@app.command("table")
def table_command(
    metrics: Annotated[Path, typer.Option(help="results/metrics.json")] = Path("results/metrics.json"),
) -> None:
    """Print the Recall table."""
    from grace.evaluation.table import show

    show(metrics)
