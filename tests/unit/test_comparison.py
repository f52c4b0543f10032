"""All systems against the baseline: Holm against its definition, seeds as repetitions, and systems that differ by chance."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grace.evaluation.comparison import KEY, add_comparisons, against_baseline, corrected_for, holm
from grace.evaluation.measures import MEASURES
from grace.evaluation.significance import seed_p_values
from grace.system.errors import GraceError

IMAGES, CAPTIONS = 60, 3


def by_definition(p_values: list[float]) -> list[float]:
    """Holm's procedure, level by level: the least level at which a hypothesis is among those rejected."""
    levels = sorted({min(1.0, p * factor) for p in p_values for factor in range(1, len(p_values) + 1)} | {1.0})

    def rejected(level: float) -> set[int]:
        out: set[int] = set()
        for step, place in enumerate(sorted(range(len(p_values)), key=lambda n: p_values[n])):
            if p_values[place] * (len(p_values) - step) > level:
                break
            out.add(place)
        return out

    return [next((level for level in levels if place in rejected(level)), 1.0) for place in range(len(p_values))]


@given(st.lists(st.floats(0.0001, 1), min_size=1, max_size=8))
def test_holm_is_what_holm_defined(p_values) -> None:
    assert holm(p_values) == pytest.approx(by_definition(p_values))
    assert all(mine >= p for mine, p in zip(holm(p_values), p_values, strict=True))


def values(rng: np.random.Generator, rate: float) -> pd.DataFrame:
    """Hits of 180 queries, three a picture, alike within a picture."""
    easy = rng.beta(2, 2, size=IMAGES).repeat(CAPTIONS)
    hits = (rng.random(IMAGES * CAPTIONS) < np.clip(easy + rate - 0.5, 0, 1)).astype(float)
    images = np.arange(IMAGES).repeat(CAPTIONS).astype(str)
    table = pd.DataFrame({"query_id": [f"q{n}" for n in range(len(hits))], "image_id": images})
    return table.assign(**dict.fromkeys(MEASURES, hits))


def rows(names: list[tuple[str, int | None]], tables: list[pd.DataFrame]) -> list[dict]:
    made = [
        {"dataset": "d", "system": system, "seed": seed, "confidence": 0.95, "versus_baseline": None}
        for system, seed in names
    ]
    add_comparisons(made, tables, 400, 0)
    return made


def test_a_scheme_is_tested_once_on_the_mean_of_its_seeds() -> None:
    rng = np.random.default_rng(0)
    tables = [values(rng, 0.4), values(rng, 0.9), values(rng, 0.7), values(rng, 0.42)]
    found = rows([("baseline", None), ("atomic", 0), ("atomic", 1), ("string", 0)], tables)
    assert KEY not in found[0] and found[1][KEY] == found[2][KEY]
    own = found[1][KEY]
    each = [table["R@1"].mean() - tables[0]["R@1"].mean() for table in tables[1:3]]
    assert (own["seeds"], own["systems"]) == (2, 2)
    assert own["R@1"]["difference"] == pytest.approx(np.mean(each))
    assert own["R@1"]["deviation"] == pytest.approx(np.std(each, ddof=1))
    assert own["R@1"]["interval"][0] <= min(each) + 0.05 and own["R@1"]["interval"][1] >= max(each) - 0.05
    raw = [found[1][KEY]["R@1"]["p_value"], found[3][KEY]["R@1"]["p_value"]]
    assert [found[1][KEY]["R@1"]["p_holm"], found[3][KEY]["R@1"]["p_holm"]] == pytest.approx(holm(raw))
    assert found[3][KEY]["R@1"]["deviation"] is None
    assert corrected_for(found) == (
        "p: paired permutation test, by image (with several seeds: a test that draws images and seeds), corrected for 2 "
        "systems per measure (Holm)."
    )


def test_the_p_of_several_seeds_counts_the_seeds_as_draws() -> None:
    rng = np.random.default_rng(0)
    tables = [values(rng, rate) for rate in (0.4, 0.47, 0.72, 0.55, 0.52)]
    found = rows([("baseline", None), ("atomic", 0), ("atomic", 1), ("atomic", 2), ("mine", None)], tables)
    atomic, mine = found[1][KEY]["R@1"], found[4][KEY]["R@1"]
    differences = np.stack([(table[["R@1"]] - tables[0][["R@1"]]).to_numpy() for table in tables[1:4]])
    of_seeds = seed_p_values(differences, tables[0]["image_id"])[0]
    assert atomic["p_seeds"] == pytest.approx(max(of_seeds, atomic["p_value"])) and of_seeds > 2 * atomic["p_value"]
    # A system with one run has no seeds to draw: it enters Holm's correction with the p of its own test.
    assert "p_seeds" not in mine
    adjusted = holm([atomic["p_seeds"], mine["p_value"]])
    assert [atomic["p_seeds_holm"], mine["p_seeds_holm"]] == pytest.approx(adjusted)
    assert against_baseline(found[2], "R@1")["p"] == atomic["p_seeds_holm"]
    assert against_baseline(found[4], "R@1")["p"] == mine["p_seeds_holm"]
    # The test of the trained seeds alone stays what it was.
    assert [atomic["p_holm"], mine["p_holm"]] == pytest.approx(holm([atomic["p_value"], mine["p_value"]]))


def test_the_p_of_several_seeds_is_never_less_than_that_of_the_trained_ones() -> None:
    table = values(np.random.default_rng(1), 0.5)
    hits, misses = (table.assign(**dict.fromkeys(MEASURES, value)) for value in (1.0, 0.0))
    own = rows([("baseline", None), ("atomic", 0), ("atomic", 1)], [misses, hits, hits])[1][KEY]["R@1"]
    assert own["p_seeds"] == own["p_value"] == pytest.approx(1 / 401)  # without any spread, the t alone would say 0


def test_of_one_seed_nothing_is_new() -> None:
    rng = np.random.default_rng(0)
    found = rows([("baseline", None), ("atomic", 0), ("string", 0)], [values(rng, rate) for rate in (0.4, 0.6, 0.5)])
    own = found[1][KEY]["R@1"]
    assert set(own) == {"difference", "interval", "deviation", "p_value", "p_holm"}
    assert against_baseline(found[1], "R@1")["p"] == own["p_holm"]


def test_without_a_baseline_nothing_is_compared() -> None:
    found = rows([("atomic", 0)], [values(np.random.default_rng(0), 0.5)])
    assert KEY not in found[0] and against_baseline(found[0], "R@1") is None and corrected_for(found) == ""


def test_five_systems_that_differ_by_chance_are_seldom_called_different() -> None:
    """Five systems no better than the baseline, 120 times: about one time in twenty one may be named; uncorrected, one in five."""
    wrong = uncorrected = 0
    for trial in range(120):
        rng = np.random.default_rng(trial)
        made = rows([("baseline", None), *((f"s{n}", 0) for n in range(5))], [values(rng, 0.5) for _ in range(6)])
        wrong += any(against_baseline(row, "R@1")["p"] < 0.05 for row in made[1:])
        uncorrected += any(row[KEY]["R@1"]["p_value"] < 0.05 for row in made[1:])
    assert wrong <= 12 and uncorrected >= 13


def test_two_baselines_are_refused() -> None:
    tables = [values(np.random.default_rng(n), 0.5) for n in range(3)]
    with pytest.raises(GraceError, match="data set d has 2 baselines"):
        rows([("baseline", 0), ("baseline", 1), ("atomic", 0)], tables)
