"""Configuration of the stage `dataset`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from grace.workflow.config.base import Count, Home, Name, Positive, Section, Share


class Scenes(Section):
    """Synthetic pictures drawn by the project."""

    train_images: Positive = Field(2000, description="images of the train split")
    val_images: Positive = Field(100, description="images of the val split")
    test_images: Positive = Field(500, description="images of the test split: the gallery")
    captions_per_image: Positive = Field(5, description="differently worded captions per image")
    image_size: int = Field(96, ge=48, le=1024, description="width and height in pixels")
    seed: Count = Field(0, description="seed of the drawings and captions")


class Karpathy(Section):
    """A JSON file in Karpathy's format and a folder of images."""

    download: str = Field(
        "",
        description="flickr8k, flickr30k or coco: downloaded if json_file and images are empty (grace/data/download/sources.csv)",
    )
    data: Home = Field("data", description="folder for downloads")
    json_file: Home = Field(
        "", description="path of dataset_flickr8k.json, dataset_flickr30k.json, dataset_coco.json, ..."
    )
    images: Home = Field("", description="folder of the images (COCO: the one with train2014/ and val2014/)")
    restval: Literal["train", "drop"] = Field(
        "train", description="COCO's restval split: train (add it to train, common practice) or drop (as in the paper)"
    )
    max_train: Count = Field(0, description="keep only N train images, chosen by a seeded shuffle; 0: keep all")
    max_val: Count = Field(0, description="the same for val")
    max_test: Count = Field(0, description="the same for test")
    fold: int = Field(0, ge=0, le=5, description="1 to 5: use only that fold of 1,000 test images (COCO 1K); 0: all")
    seed: Count = Field(0, description="seed of that shuffle")
    max_skipped: Share = Field(0.01, description="largest share of images that may be unreadable and skipped")

    @property
    def fetched(self) -> bool:
        """Whether the files are fetched by `download`."""
        return bool(self.download) and not (self.json_file or self.images)

    @property
    def paths(self) -> tuple[str, str]:
        """The JSON file and the folder of images: as given, or as written by `download`."""
        if not self.fetched:
            return self.json_file, self.images
        return f"{self.data}/{self.download}/dataset_{self.download}.json", f"{self.data}/{self.download}/images"


class Folder(Section):
    """Any folder of images, with captions from a table, from text files beside them, or written by a model."""

    images: Home = Field("", description="the folder; images in subfolders are included")
    captions: Home = Field(
        "",
        description="a CSV, TSV or JSONL file with one caption per row; or sidecar: a text file beside every image with one caption per line; empty: none",
    )
    file_column: str = Field(
        "file", description="column of that table with the image's path inside the folder, or its name"
    )
    caption_column: str = Field("caption", description="column of that table with the caption; may be a list in JSONL")
    captioner: Home = Field(
        "",
        description="model that writes captions for images without any: results of another data set of this project ({output}/{name}, with tower/ and captioner/), or a transformers captioning model by hub name or folder; empty: none",
    )
    captions_per_image: Positive = Field(
        3, description="maximum number of captions that the captioner writes per image"
    )
    val_share: Share = Field(0.1, description="share of the images in the val split")
    test_share: float = Field(0.1, gt=0, lt=1, description="share of the images in the test split: the gallery")
    seed: Count = Field(0, description="seed of the split and of the captioner")
    max_skipped: Share = Field(0.01, description="largest share of images that may be unusable and skipped")

    @model_validator(mode="after")
    def _leaves_some(self) -> Folder:
        if self.test_share + self.val_share >= 1:
            raise ValueError(
                f"test_share {self.test_share:g} and val_share {self.val_share:g} leave no images to train on; lower them"
            )
        return self


class Dataset(Section):
    name: Name = Field("scenes", description="name of the data set; its results are in {output}/{name}/")
    source: Literal["scenes", "karpathy", "folder"] = Field(
        "scenes",
        description="where it comes from: scenes (synthetic), karpathy (JSON file and images) or folder (your own images)",
    )
    scenes: Scenes = Scenes()
    karpathy: Karpathy = Karpathy()
    folder: Folder = Folder()

    @model_validator(mode="after")
    def _source_is_said(self) -> Dataset:
        given = {
            "folder": self.folder.images,
            "karpathy": self.karpathy.json_file or self.karpathy.images or self.karpathy.download,
        }
        for source, value in given.items():
            if value and self.source == "scenes":
                raise ValueError(
                    f"dataset.{source} is set to {value!r}, but dataset.source is scenes; set source: {source}"
                )
        return self
