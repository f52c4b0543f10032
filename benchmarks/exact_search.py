"""Exact search in its hardest case: an untrained model that hardly distinguishes identifiers.

Random weights, random identifiers. First states the memory that the search may use besides the model, then measures how far
the process's peak exceeds its memory before the search, the passes and prefixes read, and how much of the answer is certified.

    python -m benchmarks.exact_search --output results/exact_search.json
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import torch

from grace.identifiers.tree import Trie
from grace.report.costs import machine
from grace.retrieval.best_first import Limits, exact_search
from grace.retrieval.ties import certified_ranks
from grace.system.files import write_json
from grace.system.torchvision_shim import import_torchvision

import_torchvision()
from transformers import OPTConfig, OPTForCausalLM  # noqa: E402 (needs torchvision)

MEDIA = torch.zeros(1, 1, 1, 1)


class Plain:
    """A language model without images, with the two functions that a search calls; counts the passes."""

    def __init__(self, vocabulary: int, width: int, layers: int) -> None:
        torch.manual_seed(0)
        heads = max(1, width // 64)
        config = OPTConfig(
            vocab_size=vocabulary, hidden_size=width, word_embed_proj_dim=width, num_hidden_layers=layers,
            ffn_dim=4 * width, num_attention_heads=heads, max_position_embeddings=128,
        )  # fmt: skip
        self.model, self.passes = OPTForCausalLM(config).eval(), 0

    def hidden_states(self, ids, media, past_key_values):
        self.passes += 1
        out = self.model.model(input_ids=ids, past_key_values=past_key_values, use_cache=True)
        return out.last_hidden_state, out.past_key_values

    def head(self, hidden):
        return self.model.lm_head(hidden)


class Peak:
    """Peak resident memory inside the context, in bytes above the value at its start."""

    def __enter__(self) -> Peak:
        self.before = self.most = psutil.Process().memory_info().rss
        self.running = True
        self.thread = threading.Thread(target=self._watch)
        self.thread.start()
        return self

    def _watch(self) -> None:
        while self.running:
            self.most = max(self.most, psutil.Process().memory_info().rss)
            time.sleep(0.005)

    def __exit__(self, *_: object) -> None:
        self.running = False
        self.thread.join()

    @property
    def bytes(self) -> int:
        return self.most - self.before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--identifiers", type=int, default=2000)
    parser.add_argument("--queries", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=24, help="tokens per prompt")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--memory-mb", type=int, default=1000)
    parser.add_argument("--prefixes", type=int, default=10_000)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    bodies = sorted({tuple(map(int, row)) for row in rng.integers(3, 23, size=(2 * given.identifiers, 4))})
    bodies = [bodies[row] for row in rng.permutation(len(bodies))[: given.identifiers]]
    tree = Trie.build(bodies, range(len(bodies)), [f"{row:05d}" for row in range(len(bodies))], 2)
    model = Plain(2000, given.width, given.layers)
    prompts = torch.tensor(rng.integers(3, 2000, size=(given.queries, given.tokens)))
    token = 2 * given.layers * given.width * 4  # keys and values, fp32
    prompt_bytes = given.queries * given.tokens * token
    beams = 3 * given.queries * 10 * (given.tokens + tree.depth) * token  # gathered, extended, and the previous level
    stated = given.memory_mb * 2**20 + prompt_bytes + beams
    print(f"stated: at most {stated / 1e6:.0f} MB besides the model ({given.memory_mb} MB for prefixes)", flush=True)
    with torch.inference_mode(), Peak() as peak:
        began = time.perf_counter()
        found = exact_search(
            model, prompts, MEDIA, tree, 10, 10, limits=Limits(given.prefixes, given.memory_mb * 2**20)
        )
        seconds = time.perf_counter() - began
    pairs = zip(found.nodes.tolist(), found.scores.tolist(), strict=True)
    ranked = [[(str(node), score) for node, score in zip(nodes, scores, strict=True)] for nodes, scores in pairs]
    certain = [certified_ranks(answers, bound) for answers, bound in zip(ranked, found.bound.tolist(), strict=True)]
    told = {
        "command": " ".join(sys.argv), "machine": dict(machine()), "threads": torch.get_num_threads(),
        "identifiers": given.identifiers, "queries": given.queries, "seconds": round(seconds, 1), "passes": model.passes,
        "prefixes_per_query": round(found.model_rows / given.queries, 1), "nodes": tree.nodes,
        "stated_mb": round(stated / 1e6), "measured_mb": round(peak.bytes / 1e6),
        "queries_certified_whole": sum(number == 10 for number in certain),
        "ended_by_a_limit": int((found.bound > found.scores[:, -1]).sum()),
    }  # fmt: skip
    for name, value in told.items():
        print(f"{name}: {value}")
    if given.output:
        write_json(given.output, told)


if __name__ == "__main__":
    main()
