"""The configuration: pydantic models that are the one truth for every key, its default, its unit and its meaning.

`config.yaml` (commented defaults) and `config/schema.json` are generated from these models by `python -m grace config`;
a test fails when they drift. Every stage reads one section, its *slice*, and is rerun only when its slice changes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from grace.errors import GraceError, did_you_mean

Scheme = Literal["numeric", "string", "semantic", "structured", "atomic"]
SCHEMES: tuple[str, ...] = ("numeric", "string", "semantic", "structured", "atomic")
Positive = Annotated[int, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(gt=0)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Scenes(Section):
    """Pictures that the project draws itself."""

    train_images: Positive = Field(2000, description="images of the train split")
    val_images: Positive = Field(100, description="images of the val split")
    test_images: Positive = Field(500, description="images of the test split: the gallery")
    captions_per_image: Positive = Field(5, description="differently worded captions of an image")
    image_size: int = Field(96, ge=48, le=1024, description="width and height, pixels")
    seed: Count = Field(0, description="seed of the drawings and captions")


class Karpathy(Section):
    """A JSON file in Karpathy's format and a folder of images."""

    json_file: str = Field(
        "", description="path of dataset_flickr8k.json, dataset_flickr30k.json, dataset_coco.json, ..."
    )
    images: str = Field("", description="folder that holds the images (COCO: the one with train2014/ and val2014/)")
    restval: Literal["train", "drop"] = Field(
        "train", description="COCO's restval split: train, as the field does, or drop, as the paper does"
    )
    max_train: Count = Field(0, description="keep only the first N train images after a seeded shuffle; 0 keeps all")
    max_val: Count = Field(0, description="the same for val")
    max_test: Count = Field(0, description="the same for test")
    seed: Count = Field(0, description="seed of that shuffle")


class Dataset(Section):
    name: Name = Field("scenes", description="name of the data set: its results stand in {output}/{name}/")
    source: Literal["scenes", "karpathy"] = Field(
        "scenes", description="where it comes from: scenes (drawn) or karpathy (JSON + images)"
    )
    scenes: Scenes = Scenes()
    karpathy: Karpathy = Karpathy()


class ScratchTower(Section):
    """A small dual encoder trained from scratch on the train split: vision tower and baseline in one."""

    image_size: Positive = Field(96, description="images are resized to this many pixels, squashed")
    patch_size: Positive = Field(
        32, multiple_of=8, description="pixels of a patch's side, a multiple of 8; must divide image_size"
    )
    width: Positive = Field(128, description="width of the vision transformer")
    layers: Positive = Field(3, description="layers of the vision transformer")
    heads: Positive = Field(4, description="attention heads of both transformers")
    text_width: Positive = Field(128, description="width of the text transformer")
    text_layers: Positive = Field(2, description="layers of the text transformer")
    embedding_dim: Positive = Field(128, description="dimension of the joint embedding space")
    steps: Positive = Field(360, description="optimizer steps")
    batch_size: Positive = Field(128, description="image-caption pairs a step")
    learning_rate: Rate = Field(8e-4, description="AdamW peak learning rate (cosine decay)")
    weight_decay: float = Field(0.05, ge=0, description="AdamW weight decay")
    warmup_steps: Count = Field(50, description="steps of linear warm-up")
    shift: Count = Field(3, description="random shifts of the image, at most this many pixels each way")
    seed: Count = Field(0, description="seed of initialisation, batches and shifts")


class OpenClip(Section):
    """Any open_clip model."""

    model: str = Field(
        "ViT-L-14", description="open_clip model name, path of a JSON model configuration, or local-dir:/folder"
    )
    pretrained: str = Field("openai", description="pretrained tag or path of a weights file")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="arithmetic of the tower")


class Tower(Section):
    kind: Literal["scratch", "open_clip"] = Field(
        "scratch", description="vision tower: scratch (trained here) or open_clip"
    )
    scratch: ScratchTower = ScratchTower()
    open_clip: OpenClip = OpenClip()
    encode_batch: Positive = Field(256, description="images encoded at a time")


class ScratchLanguageModel(Section):
    """A language model with random weights and a tokenizer trained on the train captions."""

    architecture: Literal["opt", "llama"] = Field("opt", description="family of the language model")
    width: Positive = Field(128, description="hidden size")
    layers: Positive = Field(4, description="decoder layers")
    heads: Positive = Field(4, description="attention heads")
    max_length: Positive = Field(256, description="longest sequence, tokens")
    vocabulary: Positive = Field(600, description="size of the byte-level BPE vocabulary, before identifier tokens")


class PretrainedLanguageModel(Section):
    """A language model and tokenizer by hub name or local folder."""

    model: str = Field(
        "anas-awadalla/mpt-1b-redpajama-200b",
        description="hub name or folder of a causal language model (OPT, GPT-NeoX, MPT, Llama, GPT-J)",
    )
    tokenizer: str = Field("", description="hub name or folder of the tokenizer; empty: the model's own")


class Flamingo(Section):
    """The multimodal language model."""

    language_model: Literal["scratch", "pretrained"] = Field(
        "scratch", description="scratch (made here) or pretrained (by name or folder)"
    )
    scratch: ScratchLanguageModel = ScratchLanguageModel()
    pretrained: PretrainedLanguageModel = PretrainedLanguageModel()
    checkpoint: str = Field("", description="safetensors file of Flamingo weights to start from; empty: none")
    cross_attention_every: Positive = Field(2, description="a gated cross-attention before every Nth decoder layer")
    cross_attention_heads: Positive = Field(4, description="heads of the cross-attention (published model: 8)")
    cross_attention_head_dim: Positive = Field(32, description="dimension of such a head (published model: 64)")
    perceiver_depth: Positive = Field(1, description="layers of the perceiver resampler (published model: 6)")
    perceiver_latents: Positive = Field(
        9, description="visual tokens that the language model sees (published model: 64)"
    )
    gate: float = Field(0.5, description="start value of the cross-attention gates (published model: 0.0)")
    seed: Count = Field(0, description="seed of the random weights")


class Training(Section):
    """How one Flamingo is trained; the captioner and every scheme have these keys."""

    steps: Positive = Field(400, description="optimizer steps")
    memorize_batch: Count = Field(4, description="memorize samples (image to identifier) a step and process")
    memorize_images: Literal["all", "gallery"] = Field(
        "all",
        description="images that are memorize samples: train and test images, or those of the gallery (test) alone",
    )
    retrieve_batch: Count = Field(
        64, description="retrieve samples (text to identifier) a step and process; for the captioner: captions"
    )
    pseudo_query_share: float = Field(
        0.1,
        ge=0,
        le=1,
        description="share of the retrieve samples that are pseudo-queries of gallery images; the rest are gold captions of train images",
    )
    learning_rate: Rate = Field(1.5e-3, description="AdamW peak learning rate")
    schedule: Literal["linear", "cosine"] = Field("cosine", description="decay of the learning rate after warm-up")
    warmup_steps: Count = Field(30, description="steps of linear warm-up")
    weight_decay: float = Field(0.1, ge=0, description="AdamW weight decay, on the gated cross-attention only")
    gradient_clip: Rate = Field(1.0, description="largest norm of the gradient")
    gradient_accumulation: Positive = Field(1, description="micro-batches a step")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="arithmetic of the forward and backward pass")
    zero_stage: Literal[0, 1, 2, 3] = Field(0, description="DeepSpeed ZeRO stage")
    activation_checkpointing: bool = Field(False, description="recompute activations to save memory")
    trainable: tuple[Literal["perceiver", "cross_attention", "language_model"], ...] = Field(
        ("perceiver", "cross_attention", "language_model"),
        description="parts that are trained; the vision tower never is",
    )
    start_from: Literal["scratch", "captioner", "atomic"] = Field(
        "captioner",
        description="weights that a scheme starts from: the language model's own, the captioner's, or those of the atomic model of the same seed",
    )
    log_every: Positive = Field(10, description="steps between lines of metrics.jsonl")
    save_every: Positive = Field(100, description="steps between resumable states")


class Captioner(Training):
    """The same Flamingo trained to write captions; it makes the pseudo-queries."""

    start_from: Literal["scratch"] = Field(
        "scratch", description="the captioner starts from the language model's own weights"
    )
    memorize_batch: Literal[0] = Field(0, description="the captioner has no memorize samples")
    pseudo_query_share: Literal[0] = Field(0, description="the captioner has no pseudo-queries")
    retrieve_batch: Positive = Field(64, description="captions a step and process")
    steps: Positive = Field(250, description="optimizer steps")
    learning_rate: Rate = Field(2e-3, description="AdamW peak learning rate")
    seed: Count = Field(0, description="seed of the batches")


class PseudoQueries(Section):
    """Captions that the captioner writes of every gallery image."""

    source: Literal["captioner", "file"] = Field(
        "captioner", description="captioner, or file: a Parquet, CSV or JSONL table with image_id and text"
    )
    file: str = Field("", description="path of that table")
    per_image: Positive = Field(5, description="pseudo-queries of an image")
    method: Literal["sample", "beam"] = Field("sample", description="seeded sampling, or beam search (the paper: beam)")
    temperature: Rate = Field(0.7, description="sampling temperature")
    max_tokens: Positive = Field(
        60, description="longest pseudo-query, tokens; one that does not end by then is dropped and drawn again"
    )
    batch_size: Positive = Field(512, description="sequences written at a time")
    seed: Count = Field(0, description="seed of the sampling")


class Identifiers(Section):
    """How identifiers are assigned."""

    clusters: int = Field(50, ge=2, description="structured: clusters of every k-means level, k (the paper: 30)")
    leaf_size: int = Field(
        64, ge=1, description="structured: a cluster of at most this many images is a leaf, c (the paper: 30)"
    )
    max_depth: int = Field(
        12, ge=1, description="structured: deepest k-means level; what is left there is cut into leaves in order"
    )
    align: bool = Field(
        True,
        description="structured: name the children of every cluster by one codebook a level, so that a symbol means about the same under every parent (the paper: false)",
    )
    shuffle: bool = Field(
        True,
        description="numeric, string: shuffle the images with the seed first (unshuffled numbers copy the file's order)",
    )


class SchemeTraining(Section):
    """Keys of `train` that differ for one scheme; null: as in `train`."""

    steps: Positive | None = Field(None, description="optimizer steps")
    memorize_batch: Count | None = Field(None, description="memorize samples a step and process")
    memorize_images: Literal["all", "gallery"] | None = Field(None, description="images that are memorize samples")
    retrieve_batch: Count | None = Field(None, description="retrieve samples a step and process")
    pseudo_query_share: float | None = Field(None, ge=0, le=1, description="share of pseudo-queries among them")
    learning_rate: Rate | None = Field(None, description="AdamW peak learning rate")
    start_from: Literal["scratch", "captioner", "atomic"] | None = Field(
        None, description="weights that the scheme starts from"
    )


class Atomic(Section):
    """The classification objective of the atomic scheme."""

    temperature: Rate = Field(0.07, description="start value of the learned softmax temperature")
    train_class_matrix: bool = Field(
        False, description="train the class matrix too (it starts as the image embeddings)"
    )


class Train(Training):
    """Training of the retrieval models."""

    atomic_head: Atomic = Atomic()
    atomic: SchemeTraining = SchemeTraining(steps=300, learning_rate=2e-3, pseudo_query_share=0.0)
    structured: SchemeTraining = SchemeTraining(memorize_batch=64, start_from="atomic")
    semantic: SchemeTraining = SchemeTraining()
    string: SchemeTraining = SchemeTraining()
    numeric: SchemeTraining = SchemeTraining()

    def for_scheme(self, scheme: str) -> Training:
        """The training settings of one scheme: `train` with the scheme's own keys laid over it."""
        shared = {name: getattr(self, name) for name in Training.model_fields}
        own = {name: value for name, value in getattr(self, scheme).model_dump().items() if value is not None}
        return Training(**{**shared, **own})


class Retrieve(Section):
    """Trie-constrained decoding."""

    beams: Positive = Field(10, description="beams of the search")
    depth: Positive = Field(10, description="images kept of every query")
    batch_size: Positive = Field(64, description="queries decoded at a time")
    normalisation: Literal["full", "children", "level"] = Field(
        "full", description="softmax of a token's score: full vocabulary, the valid children, or the level's alphabet"
    )
    merge: Literal["max", "logsumexp"] = Field("max", description="score of an image with several identifiers")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="device of the search")


class Evaluate(Section):
    """Measures and their uncertainty."""

    resamples: Positive = Field(
        2000,
        description="bootstrap and permutation resamples, drawn by image: captions of one image are not independent",
    )
    confidence: float = Field(0.95, gt=0, lt=1, description="coverage of the intervals")
    seed: Count = Field(0, description="seed of the resampling")


class Report(Section):
    """The HTML page."""

    title: str = Field("GRACE: generative image retrieval", description="title of the page")
    examples: Count = Field(8, description="hits and as many misses shown with pictures, a system")


class Resources(Section):
    """What a job may ask for."""

    train_threads: Positive = Field(2, description="processor threads of one training job")
    solo_threads: Positive = Field(
        2,
        description="processor threads of a job that has no other beside it: tower, encode, captioner, pseudo_queries",
    )
    gpus: Count = Field(0, description="GPUs of one training or retrieval job; 0: processor")
    processes: Positive = Field(1, description="training processes (torchrun) of one job")


class Config(Section):
    """GRACE: from images and captions to a Recall table."""

    output: str = Field("results", description="folder of everything that is made")
    schemes: tuple[Scheme, ...] = Field(
        ("atomic", "structured"),
        description="identifier schemes to train: numeric, string, semantic, structured, atomic",
    )
    seeds: tuple[Count, ...] = Field(
        (0,), description="seeds: each trains every scheme once more, with other identifiers"
    )
    dataset: Dataset = Dataset()
    tower: Tower = Tower()
    flamingo: Flamingo = Flamingo()
    captioner: Captioner = Captioner()
    pseudo_queries: PseudoQueries = PseudoQueries()
    identifiers: Identifiers = Identifiers()
    train: Train = Train()
    retrieve: Retrieve = Retrieve()
    evaluate: Evaluate = Evaluate()
    report: Report = Report()
    resources: Resources = Resources()

    @model_validator(mode="after")
    def _check(self) -> Config:
        if not self.schemes:
            raise ValueError("schemes: name at least one scheme")
        if len(set(self.schemes)) < len(self.schemes) or len(set(self.seeds)) < len(self.seeds):
            raise ValueError("schemes and seeds: each may stand only once")
        if not self.seeds:
            raise ValueError("seeds: name at least one seed")
        if self.dataset.source == "karpathy" and not (self.dataset.karpathy.json_file and self.dataset.karpathy.images):
            raise ValueError("dataset.karpathy: json_file and images must be set when dataset.source is karpathy")
        if self.tower.scratch.image_size % self.tower.scratch.patch_size:
            raise ValueError("tower.scratch: patch_size must divide image_size")
        if self.train.for_scheme("atomic").start_from == "atomic":
            raise ValueError("train.atomic.start_from: atomic cannot start from itself; set captioner or scratch")
        if self.pseudo_queries.source == "file" and not self.pseudo_queries.file:
            raise ValueError("pseudo_queries.file must be set when pseudo_queries.source is file")
        return self


def parse(model: type[Section], values: Any, where: str) -> Any:
    """Validate `values` against `model`; every problem becomes one `GraceError` line that starts with `where`."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise GraceError(f"{where}: " + "; ".join(_say(model, problem) for problem in error.errors())) from None


def load(path: Path | str) -> Config:
    """Read and validate one whole configuration file (YAML)."""
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise GraceError(f"configuration file {path} does not exist") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise GraceError(f"configuration file {path} is not valid YAML: {' '.join(str(error).split())}") from None
    return parse(Config, values or {}, f"configuration file {path}")


def parse_settings(model: type[Section], text: str, where: str) -> Any:
    """Validate a stage's `--settings`: inline JSON, or the path of a YAML or JSON file."""
    try:
        values = (
            yaml.safe_load(text)
            if text.lstrip().startswith("{")
            else yaml.safe_load(Path(text).read_text(encoding="utf-8"))
        )
    except (OSError, UnicodeDecodeError) as error:
        raise GraceError(
            f"{where}: cannot read {text!r} ({error}); give inline JSON or the path of a YAML file"
        ) from None
    except yaml.YAMLError as error:
        raise GraceError(f"{where}: not valid JSON or YAML: {' '.join(str(error).split())}") from None
    return parse(model, values or {}, where)


def _say(model: type[BaseModel], problem: Any) -> str:
    place = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        section: Any = model
        for part in problem["loc"][:-1]:
            section = section.model_fields[part].annotation
        return f"unknown key '{place}'" + did_you_mean(str(problem["loc"][-1]), section.model_fields)
    said = problem["msg"].removeprefix("Value error, ")
    return f"{place}: {said} (got {problem['input']!r})" if place else said
