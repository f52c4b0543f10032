"""The model card, README.md of a model folder: what the model is, what it has seen, what it may be used for, how it is loaded.

Made from the folder's own config.json and the settings of its training, and from nothing else but the licences of published models,
as far as they are known.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from grace.workflow.config import Training
from grace.workflow.schemes import SCHEMES

SETTING = "transductive corpus, unseen queries"
# What the models' own pages say; a user's own folder or another name has no line here.
LICENCES = {
    "anas-awadalla/mpt-1b-redpajama-200b": "Apache-2.0 (page of mosaicml/mpt-1b-redpajama-200b)",
    "anas-awadalla/mpt-7b": "Apache-2.0 (page of mosaicml/mpt-7b)",
    "togethercomputer/RedPajama-INCITE-Base-3B-v1": "Apache-2.0 (its page)",
    "openai": "MIT (github.com/openai/CLIP)",
}
UNKNOWN = "not known to this project: see its source"
PSEUDO_QUERIES = {
    "captioner": "what a captioner of this project wrote",
    "nearest": "captions that people wrote of train images, borrowed",
    "file": "what a file gave",
    "": "what a source that is not recorded gave",
}
CHECKPOINT = "its page on the hub names no licence for OpenFlamingo's checkpoints; the code of open_flamingo is MIT"


def model_card(config: dict[str, Any], training: Training, tensors: dict[str, Tensor]) -> str:
    """Markdown with the header that model hubs read; `tensors` are those of model.safetensors."""
    scheme, data = config["scheme"], config["dataset"]
    images = ", ".join(f"{count['images']} {split} images" for split, count in data["counts"].items())
    lines = [
        *_header(scheme),
        f"# GRACE on {data['name']}: {_title(scheme)}, seed {config['seed']}",
        "",
        _what_it_is(scheme),
        "",
        "## What it has seen",
        "",
        f"- Data set {data['name']}: {images}.",
        f"- Licence of the data: {data['license'] or UNKNOWN}.",
        *_seen(scheme, training, config["validation"], config.get("pseudo_queries", "")),
        "",
        "## What it is made of",
        "",
        *_parts(config, training, tensors),
        "",
        "## Training",
        "",
        *_training(config, training),
        "",
        "## Loading it",
        "",
        *_loading(scheme),
    ]
    return "\n".join(lines) + "\n"


def _header(scheme: str) -> list[str]:
    tags = ["grace", "image-retrieval", "generative-retrieval", "open_flamingo"]
    task = "image-to-text" if scheme == "caption" else "feature-extraction"
    return ["---", "library_name: grace-retrieval", f"pipeline_tag: {task}", f"tags: [{', '.join(tags)}]", "---", ""]


def _title(scheme: str) -> str:
    return "captioner" if scheme == "caption" else f"{scheme} identifiers"


def _what_it_is(scheme: str) -> str:
    if scheme == "caption":
        return (
            "A Flamingo that writes captions of images. What it writes of the gallery's images are the pseudo-queries of the "
            "retrieval models."
        )
    does = "scores every image as a class" if scheme == "atomic" else "writes the identifier of the image"
    return (
        f"A Flamingo that is given a caption and {does} ({SCHEMES[scheme].description}), after GRACE (Li et al., ACL 2024, "
        "arXiv 2402.10805). It finds images of the gallery that it was trained on and no others. Every score of it is of the "
        f"setting **{SETTING}**."
    )


def _seen(scheme: str, training: Training, validation: dict[str, Any] | None, source: str) -> list[str]:
    if scheme == "caption":
        return ["- The train images and their captions; no val or test image."]
    images = "train and test" if training.memorize_images == "all" else "test"
    said = f"- It has memorised the {images} images" + (
        ", and the val images it was validated on." if validation else "."
    )
    texts = ["captions of train images"] if training.pseudo_query_share < 1 else []
    if training.pseudo_query_share:
        texts.append(f"as captions of gallery images (pseudo-queries) {PSEUDO_QUERIES[source]}")
    read = ", and ".join(texts)
    of = "to these captions" if scheme == "atomic" else "to the pseudo-queries"
    taught = f"- What the vision tower answers {of} was its teacher (distillation)."
    return [
        said if training.memorize_batch else "- It has memorised no image.",
        f"- {read[0].upper()}{read[1:]}.",
        *([taught] if training.distillation else []),
        "- No caption that people wrote of a val or test image was a sample.",
    ]


def _parts(config: dict[str, Any], training: Training, tensors: dict[str, Tensor]) -> list[str]:
    flamingo, tower = config["flamingo"], config["vision_tower"] or {}
    scratch = flamingo["language_model"] == "scratch"
    name = f"made from scratch ({flamingo['scratch']['architecture']})" if scratch else flamingo["pretrained"]["model"]
    licence = "that of this project's user" if scratch else LICENCES.get(name, UNKNOWN)
    settings = tower.get("settings", {})
    weights = "" if ":" in str(settings.get("model")) else str(settings.get("pretrained"))  # local-dir:, hf-hub:
    encoder, tower_licence = {
        "scratch": ("trained on this data set", "that of this project's user"),
        "efficientnet_lite0": ("EfficientNet-Lite0 of the package index, heads trained on this data set", UNKNOWN),
        "open_clip": (
            f"open_clip {settings.get('model')}" + (f" ({weights})" if weights else ""),
            LICENCES.get(weights, UNKNOWN),
        ),
    }.get(tower.get("kind"), ("not recorded", UNKNOWN))
    numbers = sum(value.numel() for value in tensors.values())
    rows = [
        f"- `model.safetensors`: {numbers:,} numbers: all parts of the model but the vision tower, each tensor once, frozen parts "
        "and merged adapters included.",
        f"- Language model: {name}; licence: {licence}.",
        f"- Vision tower, frozen and not in this folder: {encoder}, sha256 of its weights "
        f"`{tower.get('weights_sha256', 'not recorded')}`; licence: {tower_licence}. Queries do not need it.",
    ]
    if flamingo["checkpoint"]:
        rows.append(f"- Flamingo weights it started from: `{flamingo['checkpoint']}`; licence: {CHECKPOINT}.")
    if config.get("identifiers"):
        rows.append(f"- Identifiers, not in this folder: sha256 of the table `{config['identifiers']}`.")
    return [*rows, f"- Trained parts: {', '.join(training.trainable)}."]


def _training(config: dict[str, Any], training: Training) -> list[str]:
    best = config["validation"]
    keys = (
        *(
            "steps",
            "memorize_batch",
            "retrieve_batch",
            "pseudo_query_share",
            "distillation",
            "learning_rate",
            "schedule",
            "warmup_steps",
        ),
        *("weight_decay", "gradient_clip", "gradient_accumulation", "precision", "zero_stage", "start_from"),
    )
    values = [(key, getattr(training, key)) for key in keys] + [("processes", config["processes"])]
    rows = ["| setting | value |", "| --- | --- |", *(f"| {key} | {value} |" for key, value in values)]
    rows += ["", "All settings and versions are in `config.json` under `provenance`, the losses in `metrics.jsonl`."]
    if best:
        scores = ", ".join(f"{name} {best[name]:.4f}" for name in ("R@1", "R@5", "R@10", "MRR@10"))
        rows += [
            "",
            f"This is the model of step {best['step']}, the best of {best['validations']} validations by {best['measure']}: "
            f"{scores} of val captions against the val images (`validation.jsonl`).",
        ]
    return rows


def _loading(scheme: str) -> list[str]:
    lines = [
        "In the environment of `envs/infer.yaml` of the project GRACE; neither DeepSpeed, nor peft, nor a model hub is asked:",
        "",
        "```python",
        "from pathlib import Path",
        "from grace.model.checkpoints import load_model",
        "",
        'model, tokenizer, config = load_model(Path("model"))  # this folder',
        "```",
    ]
    if scheme != "caption":
        lines += ["", "Ranking captions (`python -m grace retrieve --help` says what the folders are):", "", "```bash"]
        lines += [
            "python -m grace retrieve --dataset ... --embeddings ... --identifiers ... --trie ... --model model --output run",
            "```",
        ]
    return lines
