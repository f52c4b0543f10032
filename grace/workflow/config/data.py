"""Configuration of the stage `dataset`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from grace.workflow.config.base import Count, Home, Name, Positive, Section, Share


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

    download: str = Field(
        "",
        description="flickr8k, flickr30k or coco: fetched if json_file and images are empty (grace/data/download/sources.csv)",
    )
    data: Home = Field("data", description="folder that downloads go to")
    json_file: Home = Field(
        "", description="path of dataset_flickr8k.json, dataset_flickr30k.json, dataset_coco.json, ..."
    )
    images: Home = Field("", description="folder that holds the images (COCO: the one with train2014/ and val2014/)")
    restval: Literal["train", "drop"] = Field(
        "train", description="COCO's restval split: train, as the field does, or drop, as the paper does"
    )
    max_train: Count = Field(0, description="keep only the first N train images after a seeded shuffle; 0 keeps all")
    max_val: Count = Field(0, description="the same for val")
    max_test: Count = Field(0, description="the same for test")
    fold: int = Field(0, ge=0, le=5, description="1 to 5: of the test images only that fold of 1,000 (COCO 1K); 0: all")
    seed: Count = Field(0, description="seed of that shuffle")
    max_skipped: Share = Field(0.01, description="largest share of images that may be unreadable and left out")

    @property
    def fetched(self) -> bool:
        """Whether the files are those that `download` fetches."""
        return bool(self.download) and not (self.json_file or self.images)

    @property
    def paths(self) -> tuple[str, str]:
        """The JSON file and the folder of images: as given, or where `download` puts them."""
        if not self.fetched:
            return self.json_file, self.images
        return f"{self.data}/{self.download}/dataset_{self.download}.json", f"{self.data}/{self.download}/images"


class Folder(Section):
    """Any folder of images, with captions from a table, from text files beside them, or written by a model."""

    images: Home = Field("", description="the folder; images in folders below it count too")
    captions: Home = Field(
        "",
        description="a CSV, TSV or JSONL file with a row a caption, or sidecar: a text file beside every image with a line a caption, or empty: none",
    )
    file_column: str = Field(
        "file", description="column of that table: path of the image inside the folder, or its name"
    )
    caption_column: str = Field("caption", description="column of that table: the caption; in JSONL it may be a list")
    captioner: Home = Field(
        "",
        description="who writes captions for images without any: a data set's results of this project ({output}/{name}, with tower/ and captioner/), or a captioning model of transformers by hub name or folder; empty: nobody",
    )
    captions_per_image: Positive = Field(3, description="captions that the captioner writes of an image, at most")
    val_share: Share = Field(0.1, description="share of the images that are the val split")
    test_share: float = Field(0.1, gt=0, lt=1, description="share of the images that are the test split: the gallery")
    seed: Count = Field(0, description="seed of the split and of the captioner")
    max_skipped: Share = Field(0.01, description="largest share of images that may be unusable and left out")

    @model_validator(mode="after")
    def _leaves_some(self) -> Folder:
        if self.test_share + self.val_share >= 1:
            raise ValueError(
                f"test_share {self.test_share:g} and val_share {self.val_share:g} leave no image to train on; lower them"
            )
        return self


class Dataset(Section):
    name: Name = Field("scenes", description="name of the data set: its results stand in {output}/{name}/")
    source: Literal["scenes", "karpathy", "folder"] = Field(
        "scenes",
        description="where it comes from: scenes (drawn), karpathy (JSON + images) or folder (your own images)",
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
                    f"dataset.{source} names {value!r}, but dataset.source is scenes; set source: {source}"
                )
        return self
