"""The decoding benchmark in the report: check the file written by `make bench`, and make its tables.

Part of `python -m grace report`; reads the file set in `report.benchmark` (see `benchmarks/decoding`).
"""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

from grace.system.errors import GraceError
from grace.system.files import read_json

FORMAT = "grace-decoding-benchmark-1"
FILE = "decoding_benchmark.json"
PARTS = ("trie", "selection", "end_to_end", "dense")
AGAIN = "make it again with make bench"

SHAPES = {
    "k256_L4": "k = 256, L = 4, 1,024 tokens",
    "k32_L5": "k = 32, L = 5, 50,000 tokens",
    "digits_L8": "digits, L = 8",
}
STRUCTURES = ("dictionaries", "marisa-trie", "level order")
SEARCHES = (
    *("Hugging Face without cache", "Hugging Face without cache, image shared"),
    *("Hugging Face with cache", "Hugging Face with cache, image shared"),
    *("grace", "grace, leaves at once"),
)


def read_benchmark(named: str, results: Path) -> dict[str, Any] | None:
    """The benchmark file given in the settings or, if none is given, that of the results folder, or None.

    Raises `GraceError` if a given file is missing, and if a file has another format.
    """
    path = Path(named) if named else results / FILE
    if not named and not path.exists():
        return None
    value = read_json(path, "decoding benchmark")
    if not isinstance(value, dict) or value.get("format") != FORMAT or not set(value["parts"]) <= set(PARTS):
        raise GraceError(f"{path} is not a decoding benchmark of this version; {AGAIN}")
    return value


def tables(benchmark: dict[str, Any]) -> dict[str, Any]:
    """Everything the page shows of a benchmark; a part that was not run is an empty list."""
    parts = benchmark["parts"]
    try:
        return {
            "machine": list(benchmark["machine"].items()),
            "minutes": f"{sum(benchmark['seconds'].values()) / 60:.0f}",
            "versions": ", ".join(f"{name} {benchmark['versions'].get(name, '–')}" for name in PEERS),
            "trie": trie_rows(parts.get("trie", [])),
            "selection": selection_rows(parts.get("selection", [])),
            "ways": list(dict.fromkeys(row["way"] for row in parts.get("selection", []))),
            "searches": SEARCHES,
            "end_to_end": search_rows(parts.get("end_to_end", [])),
            "dense": dense_rows(parts.get("dense", [])),
            "crossover": benchmark.get("crossover", {}).get("said"),
            "roofline": roofline_rows(benchmark.get("roofline", {}).get("rows", [])),
            "required": required_rows(benchmark["required"]),
        }
    except (KeyError, TypeError) as error:
        raise GraceError(f"the decoding benchmark lacks {error}; {AGAIN}") from None


PEERS = ("torch", "transformers", "marisa-trie", "faiss-cpu", "numpy")


def trie_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per shape and number of identifiers: build, bytes and load of the three structures, as in STRUCTURES."""
    found: dict[tuple[str, int], dict[str, dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["shape"], row["identifiers"]), {})[row["structure"]] = row
    return [
        {
            "shape": SHAPES.get(shape, shape),
            "number": f"{number:,}",
            "build": [seconds(median(kinds[kind]["build_s"])) for kind in STRUCTURES],
            "bytes": [f"{kinds[kind]['bytes'] / number:.1f}" for kind in STRUCTURES],
            "load": [seconds(median(kinds[kind]["load_s"])) for kind in STRUCTURES],
            "verified": seconds(median(kinds["level order"]["load_verified_s"])),
        }
        for (shape, number), kinds in found.items()
    ]


def selection_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per trie and vocabulary: the mean time of a step with each method, and our share of Hugging Face's time."""
    found: dict[tuple[str, int, int], dict[str, float]] = {}
    for row in rows:
        setting = (row["shape"], row["vocabulary"], row["identifiers"])
        found.setdefault(setting, {})[row["way"]] = median(row["whole_s"]) / len(row["step_s"])
    return [
        {
            "shape": SHAPES.get(shape, shape), "vocabulary": f"{vocabulary:,}", "number": f"{number:,}",
            "times": [seconds(time) for time in ways.values()],
            "share": f"1/{ways['Hugging Face over dictionaries'] / ways['grace']:.1f}",
        }
        for (shape, vocabulary, number), ways in found.items()
    ]  # fmt: skip


def search_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per model: time per query of every search, in the order of SEARCHES, and how far the answers agree."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["model"], {})[row["search"]] = row
    out = []
    for searches in found.values():
        ours = searches["grace"]
        each = {name: median(row["seconds"]) / row["queries"] for name, row in searches.items()}
        out.append(
            {
                "parameters": f"{ours['parameters'] / 1e6:,.0f} M",
                "dtype": ours["dtype"],
                "queries": str(ours["queries"]),
                "times": [
                    (seconds(each[name]), f"{each[name] / each['grace']:.2g}x") if name in each else ("–", "")
                    for name in SEARCHES
                ],
                "same": f"{100 * ours['same_share']:.0f} %",
            }
        )
    return out


def dense_rows(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """One row per system and gallery size, sorted by size."""
    return [
        {
            "system": row["system"], "images": f"{row['images']:,}",
            "recall": "–" if row["recall"] is None else f"{row['recall']:.3f}",
            "effort": row["effort"], "p50": seconds(row["one"]["p50_s"]), "p95": seconds(row["one"]["p95_s"]),
            "batch": seconds(row["batch_s"] / row["batch"]), "bytes": f"{row['bytes_an_image']:,.1f}",
            "constant": f"{row['constant_bytes'] / 1e6:,.0f} MB",
        }
        for row in sorted(rows, key=lambda row: row["images"])
    ]  # fmt: skip


def roofline_rows(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    return [
        {
            "queries": str(row["queries"]), "images": f"{row['identifiers']:,}",
            "generative": seconds(row["generative_s"]), "flat": seconds(row["flat_s"]),
        }
        for row in rows
    ]  # fmt: skip


def required_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "claim": row["claim"], "value": f"{row['value']:,.3g}",
            "limit": f"{'at least' if row['at_least'] else 'at most'} {row['limit']:,.3g}", "holds": row["holds"],
        }
        for row in rows
    ]  # fmt: skip


def seconds(value: float) -> str:
    """Three significant digits in a suitable unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if value >= size:
            return f"{value / size:,.3g} {unit}" if value / size < 1000 else f"{value / size:,.0f} {unit}"
    return f"{value / 1e-6:.3g} µs"
