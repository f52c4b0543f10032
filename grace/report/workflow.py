"""The diagram of the workflow as it ran: one box per stage, an arrow where one stage read what another wrote.

Part of `python -m grace report`; reads only its arguments. It is based on the records of the jobs, so it shows what actually
happened. Drawn as inline SVG in the page's colours; no other program is needed. Arrows implied by others are left out (the
transitive reduction of Aho, Garey and Ullman, 1972).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from html import escape
from itertools import pairwise

import networkx as nx
from markupsafe import Markup

from grace.report.costs import duration
from grace.report.jobs import Job

BOX, GAP = (168, 40), (26, 34)
"""Width and height of a box, and the space between boxes, in page units."""


def workflow_figure(jobs: Sequence[Job]) -> Markup | None:
    """The diagram; None without records, or if records of several runs contradict each other."""
    graph = nx.DiGraph()
    for job in jobs:
        graph.add_edges_from((source, job.stage) for source in sorted(job.reads))
        graph.add_node(job.stage)
    if not graph or not nx.is_directed_acyclic_graph(graph):
        return None
    graph.add_edges_from([(stage, "report") for stage in sorted(graph) if graph.out_degree(stage) == 0])
    lines = nx.transitive_reduction(graph)
    layer = {stage: number for number, layer in enumerate(nx.topological_generations(lines)) for stage in sorted(layer)}
    routes = _routes(lines, layer)
    places = _places(routes, layer)
    labels = _labels(jobs)
    width = max(x for x, _ in places.values()) + BOX[0] / 2 + 2
    height = max(y for _, y in places.values()) + BOX[1] / 2 + 2
    said = "; ".join(f"{stage} after {', '.join(sorted(lines.pred[stage]))}" for stage in lines if lines.pred[stage])
    drawn = [_arrow([places[stop] for stop in route]) for route in routes]
    drawn += [_box(stage, labels.get(stage, ""), *places[stage]) for stage in lines]
    return Markup(
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-labelledby="workflow-title workflow-description" '
        f'style="max-width: {width * 1.2:.0f}px; font-size: 13px">'
        f'<title id="workflow-title">Stages of the workflow and their order</title>'
        f'<desc id="workflow-description">{escape(said)}.</desc>'
        '<defs><marker id="workflow-head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="var(--muted)"></path></marker></defs>' + "".join(drawn) + "</svg>"
    )


def _labels(jobs: Sequence[Job]) -> dict[str, str]:
    """{stage: how often it ran, how long on average, and in which environment}."""
    by_stage = defaultdict(list)
    for job in jobs:
        by_stage[job.stage].append(job)
    out = {}
    for stage, of_stage in by_stage.items():
        names = ", ".join(sorted({job.environment for job in of_stage}))
        times = f"{len(of_stage)} × " if len(of_stage) > 1 else ""
        out[stage] = f"{times}{duration(sum(job.seconds for job in of_stage) / len(of_stage))}, {names}"
    return out


def _routes(lines: nx.DiGraph, layer: dict[str, int]) -> list[list[str]]:
    """Every arrow as a list of stops, one per layer: the inner ones reserve space where it passes other boxes."""
    return [
        [source, *(f"{source}>{target}@{number}" for number in range(layer[source] + 1, layer[target])), target]
        for source, target in sorted(lines.edges)
    ]


def _places(routes: list[list[str]], layer: dict[str, int]) -> dict[str, tuple[float, float]]:
    """The centre of every stop: one row per layer, ordered by the stops before them (the barycenter heuristic)."""
    rows: dict[int, list[str]] = defaultdict(list)
    before: dict[str, list[str]] = defaultdict(list)
    for stage, number in layer.items():
        rows[number].append(stage)
    for route in routes:
        for number, stop in enumerate(route[1:-1], start=layer[route[0]] + 1):
            rows[number].append(stop)
        for source, target in pairwise(route):
            before[target].append(source)
    widest = max(len(row) for row in rows.values())
    places: dict[str, tuple[float, float]] = {}
    for number in sorted(rows):
        row = sorted(
            rows[number], key=lambda stop: (sum(places[p][0] for p in before[stop]) / (len(before[stop]) or 1), stop)
        )
        left = (widest - len(row)) / 2
        for column, stop in enumerate(row):
            x = (left + column) * (BOX[0] + GAP[0]) + BOX[0] / 2 + 1
            places[stop] = (x, number * (BOX[1] + GAP[1]) + BOX[1] / 2 + 1)
    return places


def _arrow(stops: list[tuple[float, float]]) -> str:
    """A curve from the bottom of the first box to the top of the last, vertical through the rows between."""
    half = BOX[1] / 2
    path = f"M{stops[0][0]:g} {stops[0][1] + half:g}"
    for (x, y), (to_x, to_y) in pairwise(stops):
        middle = (y + to_y) / 2
        path += f"C{x:g} {middle:g} {to_x:g} {middle:g} {to_x:g} {to_y - half:g}"
        if (to_x, to_y) != stops[-1]:
            path += f"V{to_y + half:g}"
    return f'<path d="{path}" fill="none" stroke="var(--muted)" stroke-width="1.2" marker-end="url(#workflow-head)"></path>'


def _box(stage: str, label: str, x: float, y: float) -> str:
    width, height = BOX
    line = f'<text x="{x:g}" y="{y + 13:g}" text-anchor="middle" fill="var(--muted)" font-size="10.5">{escape(label)}</text>'
    return (
        f'<rect x="{x - width / 2:g}" y="{y - height / 2:g}" width="{width}" height="{height}" rx="6" '
        f'fill="var(--soft)" stroke="var(--line)"></rect>'
        f'<text x="{x:g}" y="{y - 2 if label else y + 4:g}" text-anchor="middle" fill="var(--ink)">{escape(stage)}</text>'
        + (line if label else "")
    )
