"""Captions for images that have none, written by a model.

Reads the images and either the results folder of another data set of this project (its `tower/` and `captioner/`), or a
captioning model for transformers by hub name or local folder (BLIP, GIT, ViT-GPT2: models without a prompt; weights in
safetensors, no code from the hub is run). Returns texts; part of `python -m grace dataset folder --captioner ...`.

A model's captions are not ground truth: with such test captions, the scores measure whether the system finds an image by
what this model says about it. The data set and the report say so.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from grace.data.images import read_ahead
from grace.data.texts import harmless
from grace.system.errors import GraceError
from grace.system.progress import busy, progress, say
from grace.workflow.config import Folder

BATCH = 32
MAX_TOKENS = 60
TEMPERATURE = 0.7
ROUNDS = 10
"""Attempts to sample captions that differ and end."""


def write_captions(folder: Path, files: list[str], settings: Folder) -> dict[str, list[str]]:
    """Up to `captions_per_image` different captions for each file in `folder`; files that got none are absent."""
    own = Path(settings.captioner)
    say(f"{len(files):,} images have no captions; {settings.captions_per_image} each are asked of {settings.captioner}")
    with busy("loading the captioner"):
        write = _project_captioner(own, settings) if (own / "captioner").is_dir() else _hub_captioner(settings)
    found: dict[str, list[str]] = {}
    for names, images in progress(list(_batches(folder, files)), desc="caption", unit="batches"):
        for name, texts in zip(names, write(list(images)), strict=True):
            different = list(dict.fromkeys(filter(None, map(harmless, texts))))[: settings.captions_per_image]
            if different:
                found[name] = different
    return found


def _batches(folder: Path, files: list[str]) -> Iterator[tuple[list[str], Iterator[Image.Image]]]:
    """Yield batches of names and, decoded lazily, their images."""
    for start in range(0, len(files), BATCH):
        names = files[start : start + BATCH]
        yield names, read_ahead([folder / name for name in names])


def _project_captioner(results: Path, settings: Folder) -> Any:
    """A function from images to captions: the tower and the captioner of `results`, sampled with the seed."""
    import torch

    from grace.captions.decoding import sample_captions
    from grace.model.checkpoints import load_model
    from grace.model.prompts import Prompts
    from grace.towers import open_tower
    from grace.towers.embeddings import as_stored

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tower = open_tower(results / "tower")
    model, words, config = load_model(results / "captioner", device)
    if config["scheme"] != "caption":
        raise GraceError(
            f"model {results / 'captioner'} was trained for the scheme {config['scheme']}; it is not a captioner"
        )
    prompts, generator = Prompts(words), torch.Generator(device).manual_seed(settings.seed)

    def write(images: list[Image.Image]) -> list[list[str]]:
        # half precision, like the arrays that the captioner was trained on
        tokens = as_stored(*tower.encode_images(images), ["a photo"] * len(images))[1]
        tokens = torch.from_numpy(tokens).float().to(device)
        texts: list[list[str]] = [[] for _ in images]
        for _ in range(ROUNDS):
            lacking = [row for row, said in enumerate(texts) for _ in range(settings.captions_per_image - len(said))]
            if not lacking:
                break
            media = model.resample(tokens[lacking])
            for place, text, _score in sample_captions(model, prompts, media, TEMPERATURE, MAX_TOKENS, generator):
                said = texts[lacking[place]]
                if text and text not in said:
                    said.append(text)
        return texts

    return write


def _hub_captioner(settings: Folder) -> Any:
    """A function from images to captions: a transformers model with beam search."""
    from grace.system.torchvision_shim import import_torchvision

    import_torchvision()
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    name = settings.captioner
    try:
        processor = AutoProcessor.from_pretrained(name, trust_remote_code=False)
        model = AutoModelForImageTextToText.from_pretrained(name, trust_remote_code=False, use_safetensors=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise GraceError(
            f"captioner {name!r} is neither a results folder with tower/ and captioner/ nor a captioning model that "
            f"transformers can load ({said}); choose another, or provide captions"
        ) from None
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = model.to(device).eval()
    wanted = settings.captions_per_image

    @torch.inference_mode()
    def write(images: list[Image.Image]) -> list[list[str]]:
        pixels = processor(images=images, return_tensors="pt").pixel_values.to(device)
        ids = model.generate(
            pixel_values=pixels, num_beams=max(3, wanted), num_return_sequences=wanted, max_new_tokens=MAX_TOKENS
        )
        texts = processor.batch_decode(ids, skip_special_tokens=True)
        return [texts[row * wanted : (row + 1) * wanted] for row in range(len(images))]

    return write
