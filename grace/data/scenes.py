"""The built-in data set: scenes drawn with Pillow, all different, deterministic by seed, of any size.

A scene is two or three objects (shape, colour, size, place on a 3 x 3 grid) on a background, drawn with some jitter.
Reads nothing; writes the dataset folder (images/*.png, images.parquet, captions.parquet, qrels.trec, dataset.json).

    python -m grace dataset scenes --output results/scenes/dataset --settings '{"train_images": 2000}'
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw
from tqdm import tqdm

from grace.data.scene_captions import BACKGROUNDS, COLOURS, SHAPES, SIZES, Scene, SceneObject, captions
from grace.data.tables import write_dataset
from grace.records.stage import stage
from grace.system.files import replacing_folder
from grace.workflow.config import Scenes

GRID = 3
SUPERSAMPLING = 3
JITTER = 0.06  # of a grid cell


@stage("dataset")
def scenes(*, output: Path, settings: Scenes, name: str = "scenes") -> None:
    """Draw the data set that `settings` describe into the folder `output`."""
    sizes = {"train": settings.train_images, "val": settings.val_images, "test": settings.test_images}
    splits = [split for split, size in sizes.items() for _ in range(size)]
    drawn = draw_scenes(len(splits), settings.seed)
    images, texts = [], []
    with replacing_folder(output, "dataset") as folder:
        (folder / "images").mkdir()
        for number, (split, scene) in enumerate(zip(tqdm(splits, desc="scenes", disable=None), drawn, strict=True)):
            rng = np.random.default_rng([settings.seed, 1, number])
            file = f"{number:06d}.png"
            render(scene, settings.image_size, rng).save(folder / "images" / file)
            images.append({"image_id": str(number), "split": split, "file": file, "source_split": split})
            for text, _ in captions(scene, settings.captions_per_image, rng):
                texts.append({"caption_id": str(len(texts)), "image_id": str(number), "split": split, "text": text})
        summary = {
            "name": name,
            "source": "scenes",
            "images_dir": "images",
            "license": "drawn by this software; no rights reserved (CC0)",
            "settings": settings.model_dump(),
        }
        write_dataset(folder, pd.DataFrame(images), pd.DataFrame(texts), summary)


def draw_scenes(number: int, seed: int) -> list[Scene]:
    """Return `number` scenes, no two alike in background and objects (jitter aside)."""
    rng = np.random.default_rng([seed, 0])
    seen: set[tuple] = set()
    found: list[Scene] = []
    while len(found) < number:
        scene = _random_scene(rng)
        key = (scene.background, frozenset(scene.objects))
        if key not in seen:
            seen.add(key)
            found.append(scene)
    return found


def _random_scene(rng: np.random.Generator) -> Scene:
    number = 2 if rng.random() < 0.2 else 3
    cells = rng.choice(GRID * GRID, size=number, replace=False)
    # Different shapes and colours within a scene: "the red circle" is then never two things.
    shapes = rng.choice(len(SHAPES), size=number, replace=False)
    colours = rng.choice(len(COLOURS), size=number, replace=False)
    sizes = rng.choice(list(SIZES), size=number)
    objects = tuple(
        SceneObject(SHAPES[s], list(COLOURS)[c], str(size), divmod(int(cell), GRID))
        for s, c, size, cell in zip(shapes, colours, sizes, cells, strict=True)
    )
    return Scene(str(rng.choice(list(BACKGROUNDS))), objects)


def render(scene: Scene, image_size: int, rng: np.random.Generator) -> Image.Image:
    """Draw `scene` as an RGB image of `image_size` x `image_size` pixels; `rng` moves, turns and tints a little."""
    side = image_size * SUPERSAMPLING
    cell = side / GRID
    image = Image.new("RGB", (side, side), _tint(BACKGROUNDS[scene.background], rng))
    draw = ImageDraw.Draw(image)
    for thing in scene.objects:
        row, column = thing.place
        shift = rng.uniform(-JITTER, JITTER, size=2) * cell
        centre = ((column + 0.5) * cell + shift[0], (row + 0.5) * cell + shift[1])
        radius = SIZES[thing.size] * cell * rng.uniform(0.9, 1.0)
        _draw_shape(draw, thing.shape, centre, radius, _tint(COLOURS[thing.colour], rng), cell / 24)
    return image.resize((image_size, image_size), Image.Resampling.BOX)


def _tint(colour: tuple[int, int, int], rng: np.random.Generator) -> tuple[int, int, int]:
    return tuple(int(np.clip(value + rng.integers(-10, 11), 0, 255)) for value in colour)


def _draw_shape(
    draw: ImageDraw.ImageDraw, shape: str, centre: tuple, radius: float, fill: tuple, outline: float
) -> None:
    x, y = centre
    edge = tuple(int(value * 0.55) for value in fill)
    width = max(1, round(outline))
    box = (x - radius, y - radius, x + radius, y + radius)
    if shape == "circle":
        draw.ellipse(box, fill=fill, outline=edge, width=width)
    elif shape == "ring":
        draw.ellipse(box, outline=fill, width=max(2, round(radius * 0.36)))
    elif shape == "square":
        side = radius * 0.88
        draw.rectangle((x - side, y - side, x + side, y + side), fill=fill, outline=edge, width=width)
    else:
        points = [(x + radius * px, y + radius * py) for px, py in _OUTLINES[shape]]
        draw.polygon(points, fill=fill, outline=edge, width=width)


def _star() -> list[tuple[float, float]]:
    angles = [math.pi * step / 5 - math.pi / 2 for step in range(10)]
    return [(math.cos(a) * r, math.sin(a) * r) for a, r in zip(angles, [1.0, 0.42] * 5, strict=True)]


def _heart() -> list[tuple[float, float]]:
    angles = [2 * math.pi * step / 40 for step in range(40)]
    return [
        (math.sin(a) ** 3, -(13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a)) / 16)
        for a in angles
    ]


_ARM = 0.34
_OUTLINES = {
    "triangle": [(0.0, -1.0), (0.95, 0.8), (-0.95, 0.8)],
    "diamond": [(0.0, -1.0), (0.68, 0.0), (0.0, 1.0), (-0.68, 0.0)],
    "star": _star(),
    "heart": _heart(),
    "cross": [
        (-_ARM, -1), (_ARM, -1), (_ARM, -_ARM), (1, -_ARM), (1, _ARM), (_ARM, _ARM),
        (_ARM, 1), (-_ARM, 1), (-_ARM, _ARM), (-1, _ARM), (-1, -_ARM), (-_ARM, -_ARM),
    ],
}  # fmt: skip
