"""Part 4, comparison with dense retrieval: one query (p50, p95) and 64, from text to the ten best, by gallery size.

    python -m benchmarks.decoding --output FILE --parts dense

Both sides encode the query, on the same machine, in fp32: the dense side with the text transformer of CLIP ViT-B/32 (77
positions, 512 dimensions), followed by FAISS; the generative side with a Flamingo from part 3, for which reading the prompt
is the encoding. Weights are random (the amount of work does not depend on them), and tokenisation is excluded for both.
FAISS: flat (exact), HNSW (M = 32) and IVF, the latter two with the least effort that reaches the required recall relative to
flat; the recall reached is given with every time. `bytes_an_image` is what an image adds: vectors and links, or trie and leaf
map (the mean at that size); `constant_bytes` is the query model, and centroids.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import faiss
import numpy as np
import torch
from torch import Tensor

from benchmarks.decoding import models, roofline, vectors
from benchmarks.decoding.identifier_sets import identifier_set
from benchmarks.decoding.level_order import LevelOrder
from benchmarks.decoding.timing import call, median, quantiles, timed
from grace.retrieval.beam_search import beam_search
from grace.system.torchvision_shim import import_torchvision

ANSWERS = 10


def run(sizes: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per system and gallery size, and the rows of the roofline."""
    faiss.omp_set_num_threads(torch.get_num_threads())
    rows = call(generative, sizes, fresh=sizes["fresh"])
    for number in sizes["images"]:
        rows += call(dense, number, sizes, fresh=sizes["fresh"])
    for row in rows:
        recall = "" if row["recall"] is None else f"recall {row['recall']:.3f}"
        print(f"  {row['system']:<18} {row['images']:>10,}  {recall:<12}  one query p50 "
              f"{1000 * row['one']['p50_s']:8.2f} p95 {1000 * row['one']['p95_s']:8.2f} ms  {row['batch']} together "
              f"{1000 * row['batch_s'] / row['batch']:8.2f} ms per query", flush=True)  # fmt: skip
    return rows


def generative(sizes: dict[str, Any]) -> list[dict[str, Any]]:
    """The Flamingo with the pipeline's beam search on tries of every size."""
    model = models.make(sizes["model"])
    size = sum(p.numel() * p.element_size() for p in model.flamingo.parameters())
    rows = []
    for number in sizes["images"]:
        tree = LevelOrder.build(identifier_set(sizes["shape"], number), model.vocabulary.end)[0]

        def search(prompts: Tensor, trie=tree.tree) -> None:
            beam_search(model.flamingo, prompts, model.media, trie, sizes["beams"], sizes["beams"], leaves_at_once=20)

        def ask(batch: int, seed: int = 0) -> Tensor:
            return models.prompts(model, batch, sizes["prompt_tokens"], seed)

        search(ask(1))  # warms up
        one = [timed(lambda seed=seed: search(ask(1, seed)), 1)[0] for seed in range(sizes["single_generative"])]
        together = timed(lambda: search(ask(sizes["batch"])), sizes["batch_repeats"])
        rows.append(
            {
                "system": "grace", "images": number, "recall": None, "effort": f"{sizes['beams']} beams",
                "encode_one_s": 0.0, "one": quantiles(one), "batch": sizes["batch"], "batch_s": median(together),
                "bytes_an_image": (tree.bytes() + tree.leaf_map_bytes()) / number, "constant_bytes": size,
                "parameters": model.parameters,
            }
        )  # fmt: skip
    return rows


def dense(number: int, sizes: dict[str, Any]) -> list[dict[str, Any]]:
    """Flat, HNSW and IVF on one gallery."""
    encode, size, parameters = text_encoder(sizes["text"])
    width = sizes["text"]["dimensions"]
    asked = vectors.queries(max(sizes["single_dense"], sizes["batch"]), number, width)
    flat = faiss.IndexFlatIP(width)
    added = timed(lambda: _fill(flat, number), 1)[0]
    want = flat.search(asked, ANSWERS)[1]
    systems: list[tuple[str, Any, float, float, str, float, float]] = [
        ("flat", flat, 1.0, added, "exact", 4.0 * width, 0.0)
    ]
    if number <= sizes["hnsw_up_to"]:
        hnsw = faiss.IndexHNSWFlat(width, 32, faiss.METRIC_INNER_PRODUCT)
        seconds = timed(lambda: _fill(hnsw, number), 1)[0]
        recall, effort = _tune(hnsw, "efSearch", asked, want, sizes["recall"])
        systems.append(("HNSW", hnsw, recall, seconds, effort, (faiss.serialize_index(hnsw).nbytes) / number, 0.0))
    if number >= sizes["ivf_from"]:
        lists = int(2 ** round(np.log2(2 * np.sqrt(number))))
        ivf = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, lists, faiss.METRIC_INNER_PRODUCT)
        seconds = timed(lambda: _train_and_fill(ivf, number), 1)[0]
        recall, effort = _tune(ivf, "nprobe", asked, want, sizes["recall"])
        systems.append(("IVF", ivf, recall, seconds, f"{lists} lists, {effort}", 4.0 * width + 8, 4.0 * width * lists))
    rows = []
    tokens = torch.randint(1, 40_000, (sizes["batch"], sizes["text"]["tokens"]))
    encode_one = timed(lambda: encode(tokens[:1]), sizes["single_dense"], warm=1)
    encode_batch = median(timed(lambda: encode(tokens), sizes["batch_repeats"], warm=1))
    for name, index, recall, seconds, effort, bytes_an_image, constant in systems:
        places = range(sizes["single_dense"])
        search = [timed(lambda at=at, i=index: i.search(asked[at : at + 1], ANSWERS), 1)[0] for at in (0, *places)][1:]
        together = timed(lambda i=index: i.search(asked[: sizes["batch"]], ANSWERS), sizes["batch_repeats"])
        rows.append(
            {
                "system": f"FAISS {name}", "images": number, "recall": recall, "effort": effort, "index_s": seconds,
                "encode_one_s": median(encode_one), "search_one_s": median(search),
                "one": quantiles([a + b for a, b in zip(encode_one, search, strict=True)]),
                "batch": sizes["batch"], "batch_s": encode_batch + median(together),
                "bytes_an_image": bytes_an_image, "constant_bytes": size + constant, "parameters": parameters,
            }
        )  # fmt: skip
    return rows


def text_encoder(settings: dict[str, int]) -> tuple[Callable[[Tensor], Tensor], int, int]:
    """CLIP's text transformer with random weights: its encoding function, bytes and parameters."""
    import_torchvision()
    from open_clip.transformer import TextTransformer

    model = TextTransformer(
        context_length=settings["tokens"], vocab_size=49408, width=settings["width"], heads=settings["heads"],
        layers=settings["layers"], output_dim=settings["dimensions"],
    ).eval()  # fmt: skip

    @torch.inference_mode()
    def encode(tokens: Tensor) -> Tensor:
        return model(tokens)

    parameters = list(model.parameters())
    return encode, sum(p.numel() * p.element_size() for p in parameters), sum(p.numel() for p in parameters)


def _fill(index: Any, number: int) -> None:
    for block in vectors.blocks(number, index.d):
        index.add(block)


def _train_and_fill(index: Any, number: int) -> None:
    index.cp.niter = 10
    index.train(next(vectors.blocks(number, index.d)))  # the first block
    _fill(index, number)


def _tune(index: Any, name: str, asked: np.ndarray, want: np.ndarray, recall: float) -> tuple[float, str]:
    """Double the effort until `recall` (share of the true ten found) is reached; return the recall and the effort."""
    effort = 8
    while True:
        if name == "efSearch":
            index.hnsw.efSearch = effort
        else:
            index.nprobe = effort
        found = index.search(asked, ANSWERS)[1]
        share = float(np.mean([len(set(a) & set(b)) / ANSWERS for a, b in zip(found, want, strict=True)]))
        if share >= recall or effort >= 4096:
            return share, f"{name} {effort}"
        effort *= 2


def crossovers(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The number of images beyond which flat search takes longer than generating: measured here, and by the roofline.

    Flat search reads every vector, so its time is that of encoding plus a constant per image, taken from the largest gallery.
    """
    flat = max((row for row in rows if row["system"] == "FAISS flat"), key=lambda row: row["images"])
    ours = max((row for row in rows if row["system"] == "grace"), key=lambda row: row["images"])
    an_image = flat["search_one_s"] / flat["images"]
    here = max(0.0, ours["one"]["p50_s"] - flat["encode_one_s"]) / an_image
    there = roofline.crossover(1)
    how = "within what was measured" if here <= flat["images"] else f"extrapolated from {flat['images']:,} images"
    indexes = [row for row in rows if row["system"] not in ("grace", "FAISS flat")]
    said = (
        f"For one query on this machine, exact flat search takes longer than generating beyond about {_round(here):,} images "
        f"({how}); by the roofline of an H200 the crossover is at about {_round(there):,} images for one query and "
        f"{_round(roofline.crossover(64)):,} for a batch of 64."
    )
    if indexes:
        index = max(indexes, key=lambda row: (row["images"], -row["one"]["p50_s"]))
        said += (
            f" An approximate index is another matter: {index['system']} at recall {index['recall']:.2f} answers in "
            f"{1000 * index['one']['p50_s']:.0f} ms among {index['images']:,} images, while generating takes "
            f"{1000 * ours['one']['p50_s']:.0f} ms."
        )
    return {"here": here, "roofline_one": there, "roofline_64": roofline.crossover(64), "said": said}


def _round(number: float) -> int:
    """Round to two significant digits, since more would suggest false precision."""
    return int(float(f"{number:.1e}"))
