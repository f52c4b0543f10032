"""The diagram of the workflow as it ran: one box per stage, an arrow where one stage read what another wrote.

Part of `python -m grace report`; reads only its arguments. It is based on the records of the jobs, so it shows what actually
happened. Arrows implied by others are left out (the transitive reduction of Aho, Garey and Ullman, 1972).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import matplotlib
import networkx as nx
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path

from grace.report.costs import duration
from grace.report.figures import STYLE, colour, svg
from grace.report.jobs import Job

WIDE, HIGH = 0.86, 0.54
"""Size of a box; one unit is the distance between columns, and between rows."""
UNIT = (2.4, 0.92)
"""That distance between columns, and between rows, in inches of 72 page units."""


def workflow_figure(jobs: Sequence[Job]) -> Markup | None:
    """The diagram; None without records, or if records of several runs contradict each other."""
    graph = nx.DiGraph()
    for job in jobs:
        graph.add_node(job.stage)
        graph.add_edges_from((source, job.stage) for source in sorted(job.reads))
    if not graph or not nx.is_directed_acyclic_graph(graph):
        return None
    graph.add_edges_from([(stage, "report") for stage in sorted(graph) if not graph.out_degree(stage)])
    lines = nx.transitive_reduction(graph)
    routes, places = _layout(lines)
    labels = _labels(jobs)
    columns, rows = (max(found) - min(found) + 1 for found in zip(*places.values(), strict=True))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(UNIT[0] * columns, UNIT[1] * rows))
        axis = figure.add_axes((0, 0, 1, 1), xlim=(-columns / 2, columns / 2), ylim=(rows - 0.5, -0.5))
        axis.set_axis_off()
        for route in routes:
            points = [(x, y + side * HIGH / 2) for x, y in (places[stop] for stop in route) for side in (-1, 1)][1:-1]
            axis.add_patch(FancyArrowPatch(path=Path(points), arrowstyle="->", mutation_scale=9, color=colour("muted")))
        for stage in lines:
            x, y = places[stage]
            corner, size = (x - WIDE / 2, y - HIGH / 2), (WIDE, HIGH)
            style = {"boxstyle": "round,pad=0,rounding_size=0.06", "mutation_aspect": UNIT[0] / UNIT[1]}
            axis.add_patch(FancyBboxPatch(corner, *size, facecolor=colour("soft"), edgecolor=colour("line"), **style))
            below = labels.get(stage, "")
            axis.text(x, y - (0.1 if below else 0), stage, ha="center", va="center", size=11.5)
            axis.text(x, y + 0.14, below, ha="center", va="center", size=9.3, color=colour("muted"))
        said = "; ".join(
            f"{stage} after {', '.join(sorted(lines.pred[stage]))}" for stage in lines if lines.pred[stage]
        )
        return svg(figure, "workflow", "Stages of the workflow and their order", f"{said}.")


def _layout(lines: nx.DiGraph) -> tuple[list[list], dict[Any, tuple[float, int]]]:
    """(arrows as lists of stops, one per row, {stop: its column and row}).

    An arrow has a stop of its own in every row that it passes, which reserves space between the boxes. Each row is ordered by
    the stops before it (the barycenter heuristic) and centred.
    """
    layer = {stage: row for row, stages in enumerate(nx.topological_generations(lines)) for stage in stages}
    graph, routes = nx.DiGraph(), []
    places: dict[Any, tuple[float, int]] = {}
    graph.add_nodes_from(lines)
    for source, target in sorted(lines.edges):
        between = [(source, target, row) for row in range(layer[source] + 1, layer[target])]
        routes.append([source, *between, target])
        nx.add_path(graph, routes[-1])

    def barycenter(stop: Any) -> tuple[float, str]:
        columns = [places[source][0] for source in graph.pred[stop]]
        return sum(columns) / (len(columns) or 1), str(stop)

    for row, stops in enumerate(nx.topological_generations(graph)):
        for column, stop in enumerate(sorted(stops, key=barycenter)):
            places[stop] = column - (len(stops) - 1) / 2, row
    return routes, places


def _labels(jobs: Sequence[Job]) -> dict[str, str]:
    """{stage: how often it ran, how long on average, in which environment}."""
    by_stage = defaultdict(list)
    for job in jobs:
        by_stage[job.stage].append(job)
    out = {}
    for stage, of_stage in by_stage.items():
        names = ", ".join(sorted({job.environment for job in of_stage}))
        times = f"{len(of_stage)} × " if len(of_stage) > 1 else ""
        out[stage] = f"{times}{duration(sum(job.seconds for job in of_stage) / len(of_stage))}, {names}"
    return out
