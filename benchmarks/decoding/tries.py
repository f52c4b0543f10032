"""Part 1, the trie: build, bytes per identifier and load of nested dictionaries with pickle, marisa-trie and ours.

    python -m benchmarks.decoding --output FILE --parts trie

Every row is measured in a separate process, which builds, saves, drops and loads. `bytes` is what must be in memory for
lookups: growth of the resident set for dictionaries, the mapped file for marisa-trie, the arrays for ours without the leaf
map (the competitors have none). `load_s` of marisa-trie and ours is a memory map; `load_and_read_s` of ours also reads 640
identifiers, and `load_verified_s` also hashes and checks the whole file, which a pickle does not.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.decoding.dictionaries import Dictionaries
from benchmarks.decoding.identifier_sets import identifier_set, prefixes
from benchmarks.decoding.level_order import LevelOrder
from benchmarks.decoding.marisa import Marisa
from benchmarks.decoding.timing import call, median, timed
from grace.identifiers.tree import Trie

STRUCTURES = {kind.name: kind for kind in (Dictionaries, Marisa, LevelOrder)}


def run(sizes: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per shape, number of identifiers and structure."""
    rows = []
    for shape in sizes["shapes"]:
        for number in sizes["identifiers"]:
            here = [call(measure, name, shape, number, sizes, fresh=sizes["fresh"]) for name in STRUCTURES]
            same = len({row.pop("answers") for row in here}) == 1
            rows += [{**row, "same": same} for row in here]
            for row in here:
                print(f"  {shape} {number:>10,} {row['structure']:<13} build {median(row['build_s']):8.3f} s  "
                      f"{row['bytes'] / number:7.2f} bytes per identifier  load {1000 * median(row['load_s']):10.3f} ms",
                      flush=True)  # fmt: skip
    return rows


def measure(name: str, shape: str, number: int, sizes: dict[str, Any]) -> dict[str, Any]:
    """Measure one structure on one set; `answers` is a digest of the continuations of many prefixes, after loading."""
    kind = STRUCTURES[name]
    tokens_SL = identifier_set(shape, number)
    repeats = sizes["repeats"] if number < 5_000_000 or kind is LevelOrder else 1
    row: dict[str, Any] = {"shape": shape, "identifiers": number, "structure": name}
    before = psutil.Process().memory_info().rss
    built, seconds = kind.build(tokens_SL)
    grown = psutil.Process().memory_info().rss - before  # for the first only, since later builds reuse freed memory
    row["build_s"] = [seconds]
    while len(row["build_s"]) < repeats:
        built = None
        gc.collect()
        built, seconds = kind.build(tokens_SL)
        row["build_s"].append(seconds)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trie"
        row["save_s"] = timed(lambda: built.save(path), 1)
        row["file_bytes"] = os.path.getsize(path)
        row["bytes"] = grown if kind is Dictionaries else row["file_bytes"]
        if kind is LevelOrder:
            row["bytes"] = built.bytes()
            row["leaf_map_bytes"] = built.leaf_map_bytes()
            row["nodes"] = built.tree.nodes
            row["load_verified_s"] = timed(lambda: kind.load_verified(path), repeats)
            row["load_and_read_s"] = timed(lambda: _read(kind.load(path)), sizes["load_repeats"])
        built = None
        gc.collect()
        loaded: list[Any] = []
        row["load_s"] = []
        for _ in range(repeats if kind is Dictionaries else sizes["load_repeats"]):
            loaded.clear()  # before the clock starts, since two at once may not fit
            row["load_s"] += timed(lambda: loaded.append(kind.load(path)), 1)
        followers = [sorted(loaded[0].allowed(prefix)) for prefix in prefixes(tokens_SL, sizes["prefixes"])]
        loaded.clear()
    if kind is Dictionaries and number <= sizes["published_up_to"]:
        row["build_as_published_s"] = [kind.build_as_published(tokens_SL)[1]]
    if kind is LevelOrder and number <= sizes["lists_up_to"]:
        lists, images, names = tokens_SL.tolist(), np.arange(number), list(map(str, range(number)))
        row["build_from_lists_s"] = timed(lambda: Trie.build(lists, images, names, None), 1)
    return {**row, "answers": hashlib.sha256(json.dumps(followers).encode()).hexdigest()}


def _read(loaded: LevelOrder) -> int:
    """Read 640 identifiers spread over the whole trie by walking from the leaves to the root."""
    import torch

    tree = loaded.tree
    leaves = torch.linspace(0, tree.leaves - 1, 640).long().clamp(max=tree.leaves - 1)
    return int(tree.paths(tree.nodes_of(leaves)).sum())
