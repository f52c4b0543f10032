"""Which part of the configuration a stage reads: its slice. A change elsewhere does not rerun the stage.

A slice is what the stage's option `--settings` takes: a section, or several by name. It is a param of the rule, so a change in it
reruns the stage.
"""

from __future__ import annotations

from typing import Any

from grace.workflow.config import Config, Section

Slice = Section | dict[str, Any]


def slice_of(config: Config, stage: str, scheme: str = "") -> Slice:
    """The part of the configuration that `stage` reads; the stage `train` needs `scheme`."""
    match stage:
        case "dataset":
            return getattr(config.dataset, config.dataset.source)
        case "tokenizer":
            return config.flamingo
        case "tower":
            return only(config.tower, "kind", config.tower.kind)
        case "encode":
            return only(config.tower, "kind", config.tower.kind, "encode_batch")
        case "captioner":
            return {"flamingo": config.flamingo, "training": config.captioner}
        case "train":
            return {
                "flamingo": config.flamingo,
                "training": config.train.for_scheme(scheme),
                "atomic_head": config.train.atomic_head,
            }
        case "baseline":
            return only(config.retrieve, "depth", "batch_size")
        case "trie" | "metrics":
            return {}
        case "configuration":
            return config
        case _:
            return getattr(config, stage)


def only(section: Section, *names: str) -> Section:
    """The section with all other keys at their defaults."""
    others = {name: field.get_default() for name, field in type(section).model_fields.items() if name not in names}
    return section.model_copy(update=others)
