"""The tower kind `scratch`: a small dual encoder trained on the train split, for machines without access to a hub.

It is both the vision tower of the default run and its dense baseline. Reads the dataset folder; writes
`model.safetensors`, `config.json`, `tokenizer.json` and `metrics.jsonl`.
"""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from grace.data.images import read_images
from grace.data.tables import load_dataset
from grace.system.errors import GraceError
from grace.system.files import read_json, replacing_folder, write_json
from grace.system.progress import progress, say
from grace.system.weights import load_weights, save_weights, unique_tensors
from grace.towers.dual_encoder import DualEncoder
from grace.workflow.config import ScratchTower, Tower, parse

PAD, UNKNOWN = 0, 1
LONGEST_TEXT = 256
"""Words and punctuation marks that every tower can read; more if a train caption has more."""
PIXELS = "pixels.npy"
"""The train images during training, on disk because there may be a hundred thousand."""


class ScratchDualEncoder:
    """A trained dual encoder with its tokenizer: the tower that `open_tower` returns."""

    def __init__(self, model: DualEncoder, tokenizer: object, settings: ScratchTower) -> None:
        self.model, self.tokenizer, self.settings, self.seed = model, tokenizer, settings, settings.seed
        self.temperature = math.exp(-min(model.log_scale.item(), math.log(100)))

    @torch.inference_mode()
    def encode_images(self, images: list[Image.Image]) -> tuple[Tensor, Tensor]:
        return self.model.images(to_pixels(to_bytes(images, self.settings.image_size)))

    @torch.inference_mode()
    def encode_text(self, texts: list[str], batch: int = 250) -> Tensor:
        ids = [encoding.ids for encoding in self.tokenizer.encode_batch(texts)]
        check_texts(texts, ids, self.model.text_positions.shape[0], "text")
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        out = torch.empty(len(ids), self.settings.embedding_dim)
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            out[chosen] = self.model.texts(*pad([ids[i] for i in chosen]))
        return out


def make(*, dataset: Path, output: Path, settings: Tower) -> None:
    """Train the dual encoder with a symmetric InfoNCE loss (CLIP) and write its folder."""
    s = settings.scratch
    tables = load_dataset(dataset)
    images = tables.images[tables.images["split"] == "train"].reset_index(drop=True)
    captions = tables.captions_of("train").groupby("image_id")["text"].agg(list)
    texts = [captions[image] for image in images["image_id"]]
    say(f"{len(images):,} images, {sum(map(len, texts)):,} captions; {s.steps:,} steps of {s.batch_size} images")
    tokenizer = word_tokenizer([text for group in texts for text in group])
    ids = [[encoding.ids for encoding in tokenizer.encode_batch(group)] for group in texts]
    torch.manual_seed(s.seed)
    longest = max(LONGEST_TEXT, *(len(words) for group in ids for words in group))
    for split in ("val", "test"):  # queries of the baseline
        texts = tables.captions_of(split)["text"].tolist()
        check_texts(texts, [e.ids for e in tokenizer.encode_batch(texts)], longest, f"caption of the split {split}")
    model = DualEncoder(s, tokenizer.get_vocab_size(), max_text=longest)
    with replacing_folder(output, "tower") as folder:
        pixels = read_images([tables.image_path(file) for file in images["file"]], s.image_size, folder / PIXELS)
        train_dual_encoder(model, torch.from_numpy(pixels), ids, s, folder / "metrics.jsonl")
        (folder / PIXELS).unlink()
        save_weights(folder / "model.safetensors", unique_tensors(model))
        tokenizer.save(str(folder / "tokenizer.json"))
        shape = {"vocabulary": tokenizer.get_vocab_size(), "max_text": model.text_positions.shape[0]}
        write_json(folder / "config.json", {"kind": "scratch", "settings": s.model_dump(), **shape})


def check_texts(texts: list[str], ids: list[list[int]], longest: int, what: str) -> None:
    """Raise a `GraceError` that quotes a text with more words than the tower has positions."""
    for text, words in zip(texts, ids, strict=True):
        if len(words) > longest:
            raise GraceError(
                f"a {what} has {len(words)} words and punctuation marks, but the tower reads at most {longest} (the length of "
                f"the longest train caption, or {LONGEST_TEXT}): {text[:80]!r}...; shorten it"
            )


def train_dual_encoder(model: DualEncoder, pixels_NHW3: Tensor, ids: list, s: ScratchTower, log: Path) -> None:
    """Train `model` in place; `ids[n]` are the tokenized captions of image n. Writes to `log` every ten steps."""
    rng = np.random.default_rng(s.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=s.learning_rate, weight_decay=s.weight_decay)
    batches = _epochs(len(pixels_NHW3), min(s.batch_size, len(pixels_NHW3)), rng)
    started = time.perf_counter()
    with open(log, "w", encoding="utf-8") as file:
        for step in progress(range(s.steps), desc="tower", unit="steps"):
            chosen = next(batches)
            rate = (
                s.learning_rate
                * min(1.0, (step + 1) / max(1, s.warmup_steps))
                * 0.5
                * (1 + math.cos(math.pi * step / s.steps))
            )
            for group in optimizer.param_groups:
                group["lr"] = rate
            shifted = shift(to_pixels(pixels_NHW3[chosen]), s.shift, rng)
            words = pad([ids[n][rng.integers(len(ids[n]))] for n in chosen])
            similarity = (
                model.log_scale.clamp(max=math.log(100)).exp() * model.images(shifted)[0] @ model.texts(*words).T
            )
            target = torch.arange(len(chosen))
            loss = (F.cross_entropy(similarity, target) + F.cross_entropy(similarity.T, target)) / 2
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % 10 == 0 or step == s.steps - 1:
                speed = (step + 1) * len(chosen) / (time.perf_counter() - started)
                line = {
                    "step": step + 1,
                    "loss": loss.item(),
                    "learning_rate": rate,
                    "samples_per_second": round(speed, 1),
                }
                file.write(json.dumps(line) + "\n")
                file.flush()
                if step % max(10, s.steps // 100 * 10) == 0:
                    say(f"step {step + 1}/{s.steps} loss {line['loss']:.4f} samples/s {speed:.0f}")


def open_folder(folder: Path) -> ScratchDualEncoder:
    from tokenizers import Tokenizer

    config = read_json(folder / "config.json", "tower configuration")
    settings = parse(ScratchTower, config["settings"], f"{folder}/config.json")
    model = DualEncoder(settings, config["vocabulary"], config["max_text"])
    load_weights(folder / "model.safetensors", model)
    return ScratchDualEncoder(model.eval(), Tokenizer.from_file(str(folder / "tokenizer.json")), settings)


def word_tokenizer(texts: list[str]) -> object:
    """A tokenizer of lower-cased words and punctuation marks, with the vocabulary of `texts`."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(vocab_size=20000, special_tokens=["[PAD]", "[UNK]"], show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def pad(ids: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Padded token ids [B, L] and the mask of real tokens; an empty text becomes one unknown word."""
    ids = [words or [UNKNOWN] for words in ids]
    length = max(map(len, ids))
    padded = torch.tensor([words + [PAD] * (length - len(words)) for words in ids])
    return padded, torch.arange(length) < torch.tensor([[len(words)] for words in ids])


def to_bytes(images: list[Image.Image], size: int) -> Tensor:
    """RGB bytes [B, size, size, 3]; other sizes are resized without cropping."""
    square = [
        image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC)
        if image.size != (size, size)
        else image.convert("RGB")
        for image in images
    ]
    return torch.from_numpy(np.stack([np.asarray(image) for image in square]))


def to_pixels(bytes_BHW3: Tensor) -> Tensor:
    return bytes_BHW3.permute(0, 3, 1, 2).float() / 127.5 - 1


def shift(pixels: Tensor, most: int, rng: np.random.Generator) -> Tensor:
    """Shift the batch by up to `most` pixels in each direction, replicating the edges."""
    if not most:
        return pixels
    y, x = (int(v) for v in rng.integers(0, 2 * most + 1, size=2))
    height, width = pixels.shape[-2:]
    return F.pad(pixels, (most,) * 4, mode="replicate")[..., y : y + height, x : x + width]


def _epochs(number: int, batch: int, rng: np.random.Generator):
    """Endless batches; every image is used once per epoch (a short last batch is dropped)."""
    while True:
        order = rng.permutation(number)
        for start in range(0, number - batch + 1, batch):
            yield order[start : start + batch]
