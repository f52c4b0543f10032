"""The benchmark of decoding at toy size: every part runs, and the competitors give the same answers. No time is asserted."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("marisa_trie", reason="marisa-trie is not installed: pip install -r requirements/bench.txt")

from benchmarks.decoding import __main__ as benchmark
from benchmarks.decoding import dense, end_to_end, roofline, selection, tries
from benchmarks.decoding.dictionaries import Dictionaries
from benchmarks.decoding.identifier_sets import SHAPES, identifier_set, prefixes
from benchmarks.decoding.level_order import LevelOrder
from benchmarks.decoding.marisa import Marisa
from benchmarks.decoding.requirements import verdicts
from benchmarks.decoding.sizes import FULL, TOY


@pytest.mark.parametrize("shape", SHAPES)
def test_identifier_sets_are_different_identifiers_of_their_shape(shape: str) -> None:
    tokens = identifier_set(shape, 3000)
    assert tokens.shape == (3000, SHAPES[shape].depth)
    assert len({tuple(row) for row in tokens.tolist()}) == 3000
    assert tokens.min() >= 0 and tokens.max() < SHAPES[shape].vocabulary
    assert all(len(set(column)) <= SHAPES[shape].width for column in tokens.T.tolist())
    assert (identifier_set(shape, 3000) == tokens).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_all_structures_allow_the_same_tokens(shape: str) -> None:
    tokens = identifier_set(shape, 2000)
    built = [kind.build(tokens)[0] for kind in (Dictionaries, Marisa, LevelOrder)]
    asked = prefixes(tokens, 300)
    assert {len(prefix) for prefix in asked} == set(range(SHAPES[shape].depth + 1))
    answers = [[sorted(structure.allowed(prefix)) for prefix in asked] for structure in built]
    assert answers[0] == answers[1] == answers[2]
    assert Dictionaries.build_as_published(tokens)[0].root == built[0].root
    whole = [len(prefix) == SHAPES[shape].depth for prefix in asked]
    assert all(not answer for answer, complete in zip(answers[0], whole, strict=True) if complete)
    assert any(not answer for answer, complete in zip(answers[0], whole, strict=True) if not complete)  # wrong prefixes


def test_tokens_beside_the_surrogates_are_characters_and_back() -> None:
    """Tokens of marisa-trie are code points, some of which are none."""
    tokens = [[0xD7FE, 0xD7FF], [0xD800, 0xDFFF], [0xE000, 60_000]]
    built = Marisa.build(np.array(tokens))[0]
    assert sorted(built.allowed([])) == [0xD7FE, 0xD800, 0xE000]
    assert [built.allowed(row[:1]) for row in tokens] == [row[1:] for row in tokens]
    built.first = None  # read off the keys instead of the table
    assert sorted(built.allowed([])) == [0xD7FE, 0xD800, 0xE000]
    assert [built.allowed(row[:1]) for row in tokens] == [row[1:] for row in tokens]


def test_trie_part() -> None:
    rows = tries.run(TOY["trie"])
    assert len(rows) == 3 * 3 and all(row["same"] for row in rows)
    assert all(row["file_bytes"] > 0 for row in rows)
    ours = [row for row in rows if row["structure"] == "level order"]
    # 2 bytes an edge and 4 an inner node, with the root and the end of `first`
    assert [row["bytes"] for row in ours] == [6 * row["nodes"] + 4 - 4 * row["identifiers"] for row in ours]


def test_selection_part_and_that_its_comparison_can_fail() -> None:
    rows = selection.run(TOY["selection"])
    assert len(rows) == 2 * 4 and all(row["same"] for row in rows)
    one = [[[[0, 1]], [[5, 6]], [[-1.0, -2.0]]]]
    assert selection._alike(one, one)
    for other in ([[[[1, 1]], [[5, 6]], [[-1.0, -2.0]]]], [[[[0, 1]], [[5, 7]], [[-1.0, -2.0]]]]):
        assert not selection._alike(one, other)
    assert not selection._alike(one, [[[[0, 1]], [[5, 6]], [[-1.0, -2.1]]]])


def test_whole_searches_give_what_transformers_gives() -> None:
    rows = {row["search"]: row for row in end_to_end.run(TOY["end_to_end"])}
    assert len(rows) == 6 and all(rows[name]["same_share"] == 1.0 for name in ("grace", *end_to_end.PEERS))
    assert rows["grace"]["score_gap"] < 1e-4


def test_dense_part_and_the_file(tmp_path: Path) -> None:
    output = tmp_path / "benchmark.json"
    made = benchmark.run(output, ["dense"], "toy")
    assert json.loads(output.read_text()) == made
    systems = {(row["system"], row["images"]) for row in made["parts"]["dense"]}
    assert ("FAISS flat", 500) in systems and ("FAISS IVF", 2000) in systems and ("FAISS HNSW", 500) in systems
    recalls = {row["system"]: row["recall"] for row in made["parts"]["dense"]}
    assert recalls.pop("grace") is None, "random weights have no recall"
    assert all(recall >= 0.95 for recall in recalls.values())
    assert f"{dense._round(made['crossover']['here']):,}" in made["crossover"]["said"]


def test_at_the_crossover_of_the_roofline_both_sides_take_as_long() -> None:
    for queries in (1, 64):
        number = roofline.crossover(queries)
        assert math.isclose(roofline.flat(queries, round(number)), roofline.generative(queries), rel_tol=1e-3)
    # 2 bytes a weight, one pass for the prompt and four for tokens: the prompt of one query is bound by memory
    weights = 2 * roofline.GENERATIVE["parameters"] / roofline.BANDWIDTH
    assert 5 * weights < roofline.generative(1) < 5.2 * weights


def test_requirements_are_computed_from_the_rows_and_can_fail() -> None:
    def row(structure: str, build: float, load: float) -> dict:
        return {"shape": "k256_L4", "identifiers": 10_000_000, "structure": structure, "build_s": [build],
                "load_s": [load], "bytes": 1, "same": build < 2}  # fmt: skip

    def holds(build: float, load: float) -> dict[str, bool]:
        rows = [row("dictionaries", 60.0, 10.0), row("marisa-trie", 9.0, 1.0), row("level order", build, load)]
        rows = [{**made, "same": rows[-1]["same"]} for made in rows]
        return {v["claim"].split(": ")[1]: v["holds"] for v in verdicts({"trie": rows})}

    good, bad = holds(1.0, 0.001), holds(2.5, 0.1)
    assert len(good) == 4 and all(good.values()) and not any(bad.values())


def test_full_sizes() -> None:
    assert FULL["trie"]["identifiers"] == [30_000, 123_000, 1_000_000, 10_000_000]
    assert FULL["selection"]["identifiers"] == [123_000, 10_000_000]
    assert FULL["selection"]["queries"] == 64 and FULL["selection"]["beams"] == 10
