"""Configuration of training, pseudo-queries and identifiers; every scheme of `grace.workflow.schemes` has keys in `Train`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, create_model, model_validator

from grace.workflow.config.base import Count, Home, Positive, Rate, Section
from grace.workflow.schemes import SCHEMES


class Lora(Section):
    """Low-rank adapters (peft) on the language model's own layers, for `trainable: [..., lora]`."""

    rank: Positive = Field(16, description="rank of an adapter")
    alpha: Rate = Field(32.0, description="adapters are scaled by alpha / rank")
    layers: tuple[str, ...] = Field(
        (),
        description="linear layers with an adapter, by the last part of their name, such as q_proj; empty: all in the decoder",
    )


class Training(Section):
    """How a Flamingo is trained; the captioner and every scheme have these keys."""

    steps: Positive = Field(400, description="optimizer steps")
    memorize_batch: Count = Field(4, description="memorize samples (image to identifier) per step and process")
    memorize_images: Literal["all", "gallery"] = Field(
        "all",
        description="images to memorize: train and test images, or only the gallery (test)",
    )
    retrieve_batch: Count = Field(
        64, description="retrieve samples (text to identifier) per step and process; for the captioner: captions"
    )
    pseudo_query_share: float = Field(
        0.1,
        ge=0,
        le=1,
        description="share of the retrieve samples that are pseudo-queries of gallery images; the rest are gold captions of train images",
    )
    distillation: float = Field(
        0.0,
        ge=0,
        description="weight of the distillation loss, added to the cross-entropy (docs/explanation/training.md): the target is the tower's embedding of a caption (atomic), or its ranking of the gallery (other schemes); 0: none",
    )
    learning_rate: Rate = Field(1.5e-3, description="AdamW peak learning rate")
    schedule: Literal["linear", "cosine", "constant"] = Field(
        "cosine", description="learning rate after warm-up: linear or cosine decay to 0, or constant"
    )
    warmup_steps: Count = Field(30, description="steps of linear warm-up")
    weight_decay: float = Field(
        0.1, ge=0, description="AdamW weight decay, applied only to the matrices of the gated cross-attention"
    )
    gradient_clip: Rate = Field(1.0, description="maximum norm of the gradient")
    gradient_accumulation: Positive = Field(1, description="micro-batches per step")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="precision of the forward and backward pass")
    zero_stage: Literal[0, 1, 2, 3] = Field(0, description="DeepSpeed ZeRO stage")
    optimizer_offload: Literal["none", "cpu"] = Field(
        "none",
        description="where the optimizer's state is kept and updated: none (the device) or cpu (main memory; ZeRO 1 to 3)",
    )
    activation_checkpointing: bool = Field(
        False, description="recompute activations in the backward pass to save memory"
    )
    loss_chunk: Count = Field(
        0, description="supervised positions whose vocabulary logits are computed at a time; 0: the whole batch"
    )
    share_images: bool = Field(
        False,
        description="resample the images of all kinds of samples together, and the pad image once per step: less communication under ZeRO 3; rounding differs",
    )
    trainable: tuple[Literal["perceiver", "cross_attention", "language_model", "lora"], ...] = Field(
        ("perceiver", "cross_attention", "language_model"),
        description="parts to train (never the vision tower); lora: adapters instead of the language model",
    )
    lora: Lora = Lora()
    start_from: Literal["scratch", "captioner", "atomic"] = Field(
        "captioner",
        description="initial weights of a scheme: scratch (the language model's own), captioner, or atomic (the atomic model of the same seed)",
    )
    log_every: Positive = Field(10, description="steps between lines of metrics.jsonl")
    save_every: Positive = Field(100, description="steps between resumable states")
    keep_states: Positive = Field(1, description="number of newest resumable states to keep")
    validate_every: Count = Field(
        0,
        description="steps between validations on the val split; the best model is kept, and val images are also memorised; 0: never",
    )
    validate_queries: Positive = Field(
        500, description="maximum number of val captions per validation, a seeded choice"
    )
    validate_measure: Literal["R@1", "R@5", "R@10", "MRR@10"] = Field(
        "MRR@10", description="measure by which validations are compared"
    )
    patience: Count = Field(
        0, description="stop training after this many validations in a row without improvement; 0: never"
    )
    resume: Literal["exact", "weights"] = Field(
        "exact",
        description="what to do with a state from a different number of processes: exact refuses it, weights resumes with its weights and a new optimizer",
    )

    @model_validator(mode="after")
    def _fit(self) -> Training:
        if {"language_model", "lora"} <= set(self.trainable):
            raise ValueError("trainable: lora trains adapters instead of language_model; list only one of the two")
        if self.optimizer_offload == "cpu" and self.zero_stage == 0:
            raise ValueError("optimizer_offload: cpu needs zero_stage 1, 2 or 3")
        if self.patience and not self.validate_every:
            raise ValueError("patience counts validations; set validate_every")
        return self

    @property
    def pseudo_batch(self) -> int:
        """How many of the `retrieve_batch` samples are pseudo-queries."""
        return round(self.retrieve_batch * self.pseudo_query_share)


class Captioner(Training):
    """The same Flamingo trained to write captions; it writes the pseudo-queries."""

    start_from: Literal["scratch"] = Field(
        "scratch", description="the captioner starts from the language model's own weights"
    )
    memorize_batch: Literal[0] = Field(0, description="the captioner has no memorize samples")
    memorize_images: Literal["all"] = Field("all", description="the captioner has no memorize samples")
    pseudo_query_share: Literal[0] = Field(0, description="the captioner has no pseudo-queries")
    distillation: Literal[0] = Field(0, description="the captioner has no teacher")
    retrieve_batch: Positive = Field(64, description="captions per step and process")
    validate_every: Literal[0] = Field(0, description="the captioner is not validated, since it retrieves nothing")
    steps: Positive = Field(250, description="optimizer steps")
    learning_rate: Rate = Field(2e-3, description="AdamW peak learning rate")
    seed: Count = Field(0, description="seed of the batches")


class PseudoQueries(Section):
    """Captions of the gallery images that are not human-written for them: training queries for the images to be found."""

    source: Literal["captioner", "nearest", "file"] = Field(
        "captioner",
        description="captioner: written by the captioner; nearest: train captions for which the tower retrieves the image; file: a Parquet, CSV, TSV or JSONL table with image_id and text",
    )
    file: Home = Field("", description="path of that table")
    per_image: Positive = Field(5, description="pseudo-queries per image")
    method: Literal["sample", "beam"] = Field("sample", description="seeded sampling, or beam search (the paper: beam)")
    temperature: Rate = Field(0.7, description="sampling temperature")
    max_tokens: Positive = Field(
        60, description="longest pseudo-query in tokens; one that has not ended by then is dropped and drawn again"
    )
    batch_size: Positive = Field(512, description="sequences generated at a time")
    seed: Count = Field(0, description="seed of the sampling")


class Identifiers(Section):
    """How identifiers are assigned."""

    clusters: int = Field(50, ge=2, description="structured: clusters per k-means split, k (the paper: 30)")
    leaf_size: int = Field(
        64, ge=1, description="structured: largest number of images in a leaf cluster, c (the paper: 30)"
    )
    max_depth: int = Field(
        12,
        ge=1,
        description="structured: deepest k-means level; larger clusters left there are divided into leaves in order",
    )
    align: bool = Field(
        True,
        description="structured: name the children of every cluster by one codebook per level, so that a symbol means about the same under every parent (the paper: false)",
    )
    shuffle: bool = Field(
        True,
        description="numeric, string: shuffle the images with the seed first (otherwise the numbers follow the file's order)",
    )


class SchemeTraining(Section):
    """Keys of `train` overridden for one scheme; null: as in `train`."""

    steps: Positive | None = Field(None, description="optimizer steps")
    memorize_batch: Count | None = Field(None, description="memorize samples per step and process")
    memorize_images: Literal["all", "gallery"] | None = Field(None, description="images to memorize")
    retrieve_batch: Count | None = Field(None, description="retrieve samples per step and process")
    pseudo_query_share: float | None = Field(None, ge=0, le=1, description="share of pseudo-queries among them")
    distillation: float | None = Field(None, ge=0, description="weight of the distillation loss")
    learning_rate: Rate | None = Field(None, description="AdamW peak learning rate")
    start_from: Literal["scratch", "captioner", "atomic"] | None = Field(
        None, description="initial weights of the scheme"
    )


class Atomic(Section):
    """The classification objective of the atomic scheme."""

    temperature: Rate = Field(0.07, description="initial value of the learned softmax temperature")
    projection: Literal["random", "regression"] = Field(
        "random",
        description="initial projection of hidden states: random, or a ridge regression of image embeddings on the hidden states of a pretrained language model",
    )
    regression_samples: Positive = Field(2000, description="samples of that regression")
    train_class_matrix: bool = Field(
        False, description="also train the class matrix (initialised with the image embeddings)"
    )


class _Train(Training):
    """Training of the retrieval models."""

    atomic_head: Atomic = Atomic()

    def for_scheme(self, scheme: str) -> Training:
        """The training settings of one scheme: `train` overridden by the scheme's own keys."""
        shared = {name: getattr(self, name) for name in Training.model_fields}
        own = {name: value for name, value in getattr(self, scheme).model_dump().items() if value is not None}
        return Training(**{**shared, **own})


Train = create_model(
    "Train",
    __base__=_Train,
    __doc__=_Train.__doc__,
    **{name: (SchemeTraining, SchemeTraining(**scheme.training)) for name, scheme in SCHEMES.items()},
)
