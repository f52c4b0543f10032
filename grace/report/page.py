"""The stage `report`: the results of a run on one HTML page that opens offline.

Reads the whole configuration (JSON or YAML) and the results folder (see `grace.report.inputs`), writes
report/index.html, and beside it the table and its figure as files (`grace.report.extracts`).

    python -m grace report --config FILE --results DIR --output FILE --settings JSON

The page loads nothing: styles, figures (SVG) and pictures (data URIs) are embedded, and its content security policy forbids
requests. Texts from the data set are escaped. The same results on the same machine give the same bytes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from grace.evaluation.comparison import corrected_for
from grace.evaluation.foreign import foreign_notes
from grace.evaluation.measures import MEASURES
from grace.evaluation.stage import RESAMPLES
from grace.evaluation.table import chance_level
from grace.records.stage import stage
from grace.report import costs, decoding, tables
from grace.report.data_card import data_card, word_counts
from grace.report.decoding_figure import decoding_figure
from grace.report.extracts import FIGURE, TABLE, write_extracts
from grace.report.figures import curves_figure, lengths_figure, recall_figure, words_figure
from grace.report.gallery import Examples, Pictures, examples
from grace.report.inputs import Inputs, System, read_inputs
from grace.report.workflow import workflow_figure
from grace.system.errors import GraceError
from grace.system.files import replacing
from grace.system.progress import progress, say
from grace.workflow.config import Report, load

TEMPLATE = "template.html"


def _read(given: dict[str, Any]) -> dict[str, Path]:
    """The files that the page is made from, by their place in the results folder."""
    results, benchmark = Path(given["results"]), given["settings"].benchmark
    config = load(given["config"])
    folder = results / config.dataset.name
    read = [results / "metrics.json", folder / "dataset", folder / "embeddings"]
    systems = [folder / scheme / f"seed{seed}" for scheme in config.schemes for seed in config.seeds]
    read += [folder / "baseline" / name for name in ("run.trec", "retrieval.json")]
    read += [system / name for system in systems for name in ("run.trec", "retrieval.json", "identifiers", "model")]
    named = {str(path.relative_to(results)): path for path in read}
    named |= {f"runs.{name}": Path(path) for name, path in config.runs.items()}
    return {"config": given["config"], **named, "benchmark": Path(benchmark) if benchmark else results / decoding.FILE}


@stage("report", outputs=lambda output: [output, *(output.with_name(name) for name in (TABLE, FIGURE))], reads=_read)
def report(*, config: Path, results: Path, output: Path, settings: Report) -> None:
    """Write the page to `output`, and table and figure beside it.

    Raises a `GraceError` naming a required file that is missing or broken.
    """
    inputs = read_inputs(load(config), Path(results))
    say(f"{len(inputs.systems)} systems, {len(inputs.gold):,} queries, {len(inputs.dataset.gallery):,} images")
    page = render(inputs, settings, decoding.read_benchmark(settings.benchmark, Path(results)))
    with replacing(output) as temporary:
        temporary.write_text(page, encoding="utf-8")
    write_extracts(inputs, Path(output).parent, page)


def render(inputs: Inputs, settings: Report, benchmark: dict[str, Any] | None = None) -> str:
    """Return the page as text; `benchmark` is the decoding benchmark, if there is one."""
    # StrictUndefined: a misspelled name in the template is an error instead of an empty string.
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE).render(context(inputs, settings, benchmark))


def context(inputs: Inputs, settings: Report, benchmark: dict[str, Any] | None = None) -> dict[str, Any]:
    """Everything the template shows."""
    systems = inputs.systems
    first = systems[0].row
    curves, missing_curves = training_curves(inputs)
    lengths = {
        system.label: counts
        for system in systems
        if system.statistics and (counts := tables.lengths(system.statistics))
    }
    pictures = Pictures(inputs.dataset) if settings.examples else None
    stages, total = ([], {}) if inputs.benchmarks is None else costs.stage_rows(inputs.benchmarks)
    return {
        "title": settings.title,
        "headline": tables.headline(systems),
        "setting": first["setting"],
        "queries": len(inputs.gold),
        "gallery": len(inputs.dataset.gallery),
        "dataset_name": inputs.dataset.summary["name"],
        "data": data_card(
            inputs.dataset, inputs.vectors, pictures, settings.near_duplicate, bool(inputs.config.train.validate_every)
        ),
        "words_figure": words_figure(word_counts(inputs.dataset)),
        "measures": MEASURES,
        "confidence": f"{100 * first['confidence']:g} %",
        "comparison_resamples": RESAMPLES,
        "corrected": corrected_for([system.row for system in systems]),
        "chance": chance_level(first),
        "alpha": f"{1 - first['confidence']:.2g}",
        "resamples": inputs.config.evaluate.resamples,
        "depths": sorted({system.retrieval["depth"] for system in systems if system.retrieval.get("depth")}),
        "recall": tables.recall_rows(systems),
        "versus": tables.versus_rows(systems),
        "seeds": tables.seed_rows(systems),
        "other_methods": foreign_notes([system.row for system in systems]),
        "recall_figure": recall_figure(systems),
        "examples": system_examples(inputs, settings.examples, pictures),
        "several_seeds": len({system.name for system in systems}) < len(systems),
        "curves": tables.training_rows(curves),
        "curves_figure": curves_figure(curves) if curves else None,
        "missing_curves": missing_curves,
        "identifiers": tables.identifier_rows(systems),
        "checks": tables.check_rows(systems),
        "lengths_figure": lengths_figure(lengths) if lengths else None,
        "retrieval": tables.retrieval_rows(systems),
        "certified": any("certified" in system.retrieval for system in systems),
        "workflow_figure": workflow_figure(inputs.jobs),
        "decoding": decoding.tables(benchmark) if benchmark else None,
        "decoding_figure": decoding_figure(benchmark) if benchmark else None,
        "stages": stages,
        "total": total,
        "config": yaml.safe_dump(inputs.config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=110),
        "versions": costs.version_table(systems),
        "machine": costs.machine(),
    }


def training_curves(inputs: Inputs) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """The existing training logs by name, and a sentence for each missing one."""
    trained_here = inputs.config.tower.kind != "open_clip"
    source = inputs.config.pseudo_queries.source
    borrowed = "were borrowed from the train split" if source == "nearest" else "were read from a file"
    why = {
        "dual encoder": "the tower/metrics.jsonl of this run is missing or empty"
        if trained_here
        else "its weights are pretrained, so it was not trained here",
        "captioner": "the captioner/metrics.jsonl of this run is missing or empty"
        if inputs.config.captioner_is_read
        else f"the pseudo-queries {borrowed}, so no captioner was trained",
    }
    named = {"dual encoder": "dual encoder (baseline)"}
    found: dict[str, pd.DataFrame] = {}
    missing: list[str] = []
    for name, curve in inputs.shared_curves.items():
        if curve is None:
            missing.append(f"No training curve for the {named.get(name, name)}: {why[name]}.")
        else:
            found[named.get(name, name)] = curve
    for system in inputs.systems:
        if system.curve is not None:
            found[system.label] = system.curve
        elif system.is_generative:
            missing.append(f"No training curve for {system.label}: its model/metrics.jsonl is missing or empty.")
    return found, missing


def system_examples(inputs: Inputs, count: int, pictures: Pictures | None) -> list[Examples]:
    """Examples for the first seed of every system; none without pictures."""
    if pictures is None:
        return []
    first: dict[str, System] = {}
    for system in inputs.systems:
        first.setdefault(system.name, system)
    _check_gallery(inputs)
    shown = progress(first.values(), desc="pictures", unit="systems")
    return [examples(inputs, system, count, pictures) for system in shown]


def _check_gallery(inputs: Inputs) -> None:
    known = set(inputs.dataset.gallery["image_id"])
    for system in inputs.systems:
        strange = system.run.loc[~system.run["doc_id"].isin(known), "doc_id"]
        if len(strange):
            raise GraceError(
                f"the run of {system.label} names image {strange.iloc[0]}, which is not in the gallery; retrieve again"
            )
