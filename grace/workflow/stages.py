"""The stages in the order of the data flow: each is a rule, a command and a function of the same name.

The number is the stage's version. It is part of the rule's params, so raising it reruns the stage and everything after it,
while editing code alone reruns nothing. Raise it when a code change affects the stage's output.
"""

from __future__ import annotations

STAGES: dict[str, int] = {
    "dataset": 2,
    "tokenizer": 1,
    "tower": 2,
    "encode": 4,
    "captioner": 4,
    "pseudo_queries": 2,
    "identifiers": 2,
    "trie": 3,
    "train": 5,
    "retrieve": 4,
    "baseline": 1,
    "evaluate": 2,
    "metrics": 2,
    "report": 4,
}
