"""Every system against the baseline: seeds as repetitions, p-values corrected by Holm's method.

Reads the per-query values that `evaluate` wrote next to every metrics.json; used by `python -m grace metrics`.

The seeds of a scheme are repetitions of one experiment. A scheme is tested once per measure, however many seeds it has,
and no seed is picked:

- `p_value`: for every query the mean over seeds is compared with the baseline's value, by the paired permutation test of
  `significance`, clustered by image. It generalises to new images, for these trained seeds.
- `p_seeds`, of a scheme with several seeds: images and seeds are both drawn at random (`significance.seed_p_values`),
  so it generalises to new seeds as well. It is never less than `p_value`. This is what tables show.
- the interval resamples images and seeds (hierarchical bootstrap; Davison & Hinkley 1997, section 3.8).

With several systems, one may differ by chance, so the p-values of one measure are corrected for the number of systems (Holm
1979, step-down), as `p_holm` and `p_seeds_holm`. Systems with one seed, including runs of other methods, enter the latter
with their `p_value`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from grace.evaluation.measures import MEASURES
from grace.evaluation.significance import cluster_sums, paired_p_values, seed_p_values
from grace.system.errors import GraceError
from grace.system.progress import progress

KEY = "comparison"
"""Key of a row of metrics.json: the comparison of its system (all seeds) with the baseline."""


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment: the smallest level at which each hypothesis is rejected, in the order given."""
    order = np.argsort(p_values, kind="stable")
    steps = np.asarray(p_values, dtype=np.float64)[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return adjusted.tolist()


def add_comparisons(rows: list[dict[str, Any]], values: Sequence[pd.DataFrame], resamples: int, seed: int) -> None:
    """Add a comparison to every row except the baseline's, in place.

    `values[n]` belongs to `rows[n]`: query_id, image_id, and one column per measure. Without a baseline nothing is added.
    """
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        own = [number for number, row in enumerate(rows) if row["dataset"] == dataset]
        baselines = [number for number in own if rows[number]["system"] == "baseline"]
        if len(baselines) > 1:
            raise GraceError(f"metrics: data set {dataset} has {len(baselines)} baselines; compare with one")
        if not baselines:
            continue
        baseline = baselines[0]
        systems = {name: [] for name in (rows[n]["system"] for n in own) if name != "baseline"}
        for number in own:
            if number != baseline:
                systems[rows[number]["system"]].append(number)
        found = {
            name: _compared(
                [values[n] for n in numbers], values[baseline], rows[baseline]["confidence"], resamples, seed
            )
            for name, numbers in systems.items()
        }
        for measure in MEASURES:
            _correct([of[measure] for of in found.values()])
        for name, numbers in systems.items():
            for number in numbers:
                rows[number][KEY] = {"seeds": len(numbers), "systems": len(systems), **found[name]}


def _correct(tests: list[dict[str, Any]]) -> None:
    """Add corrected p-values to the tests of one measure, one test per system, in place."""
    for test, p in zip(tests, holm([test["p_value"] for test in tests]), strict=True):
        test["p_holm"] = p
    if any("p_seeds" in test for test in tests):
        of_seeds = holm([test.get("p_seeds", test["p_value"]) for test in tests])
        for test, p in zip(tests, of_seeds, strict=True):
            test["p_seeds_holm"] = p


def _compared(
    runs: list[pd.DataFrame], baseline: pd.DataFrame, confidence: float, resamples: int, seed: int
) -> dict[str, dict[str, Any]]:
    """One scheme's runs, one per seed, against the baseline: difference of means, deviation over seeds, interval, p."""
    base = baseline.set_index("query_id")
    tables = []
    for run in runs:
        table = run.set_index("query_id")
        if len(table) != len(base) or not table.index.isin(base.index).all():
            raise GraceError("metrics: runs of one data set answer different queries; evaluate them again")
        tables.append(table.loc[base.index, list(MEASURES)].to_numpy())
    each_SQM = np.stack(tables) - base[list(MEASURES)].to_numpy()
    clusters = base["image_id"].to_numpy()
    p_values = paired_p_values(each_SQM.mean(0), clusters, resamples=resamples, seed=seed)
    bounds = _intervals(each_SQM, clusters, confidence, resamples, seed)
    means_SM = each_SQM.mean(1)
    deviations = means_SM.std(0, ddof=1) if len(runs) > 1 else np.full(len(MEASURES), np.nan)
    out = {
        name: {
            "difference": float(means_SM[:, place].mean()), "interval": bounds[place].tolist(),
            "deviation": None if np.isnan(deviations[place]) else float(deviations[place]),
            "p_value": float(p_values[place]),
        }
        for place, name in enumerate(MEASURES)
    }  # fmt: skip
    if len(runs) > 1:
        for name, p in zip(MEASURES, np.maximum(p_values, seed_p_values(each_SQM, clusters)), strict=True):
            out[name]["p_seeds"] = float(p)
    return out


def _intervals(
    each_SQM: np.ndarray, clusters_Q: np.ndarray, confidence: float, resamples: int, seed: int
) -> np.ndarray:
    """Percentile intervals [measures, 2] of the mean difference: each resample draws seeds, and images with all their queries."""
    sums = [cluster_sums(each_QM, clusters_Q) for each_QM in each_SQM]
    sums_SCM, sizes_C = np.stack([of_run for of_run, _ in sums]), sums[0][1]
    rng = np.random.default_rng(seed)
    seeds, clusters = len(sums_SCM), len(sizes_C)
    means = np.empty((resamples, sums_SCM.shape[2]))
    for number in progress(range(resamples), desc="bootstrap", unit="resamples"):
        counts_C = np.bincount(rng.integers(0, clusters, clusters), minlength=clusters)
        chosen_CM = sums_SCM[rng.integers(0, seeds, seeds)].mean(0)
        means[number] = counts_C @ chosen_CM / (counts_C @ sizes_C)
    tail = (1 - confidence) / 2
    return np.quantile(means, [tail, 1 - tail], axis=0).T


def against_baseline(row: dict[str, Any], measure: str) -> dict[str, Any] | None:
    """A row's comparison with the baseline: difference, interval, and `p`, corrected where possible.

    With several seeds, p is that of the test over images and seeds. The metrics.json of a single system does not know the other
    systems, so its p is uncorrected. None: there is no baseline.
    """
    if row.get(KEY):
        found = row[KEY][measure]
        return {**found, "p": found.get("p_seeds_holm", found["p_holm"]), "corrected": True}
    if row["versus_baseline"]:
        found = row["versus_baseline"][measure]
        return {**found, "p": found["p_value"], "corrected": False}
    return None


def is_significant(found: dict[str, Any], confidence: float) -> bool:
    """Whether a comparison (`against_baseline`) is significant at the level 1 - confidence."""
    return found["p"] < round(1 - confidence, 12)


def corrected_for(rows: Sequence[dict[str, Any]]) -> str:
    """A sentence on how the p-values of these rows were computed; empty if there are none."""
    compared = [row for row in rows if against_baseline(row, MEASURES[0])]
    if not compared:
        return ""
    found = compared[0].get(KEY)
    if not found:
        return "p: paired permutation test, by image, uncorrected."
    systems = "1 system" if found["systems"] == 1 else f"{found['systems']} systems per measure (Holm)"
    seeds = max(row[KEY]["seeds"] for row in compared if row.get(KEY))
    repeated = " (with several seeds: a test that draws images and seeds)" if seeds > 1 else ""
    return f"p: paired permutation test, by image{repeated}, corrected for {systems}."
