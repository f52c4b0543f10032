"""English captions of drawn scenes, and the facts that each one states.

The captions of an image rotate through five styles; each style leaves out something different (places, sizes, the
background, one colour, one object), so that no caption says everything. A caption comes with the facts it states, which an
oracle in the tests matches against all scenes. Used by `grace.data.scenes`.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "heart", "diamond", "cross", "ring")
COLOURS = {
    "red": (220, 30, 30),
    "orange": (255, 140, 0),
    "yellow": (250, 220, 20),
    "green": (20, 150, 50),
    "blue": (30, 80, 230),
    "purple": (150, 50, 200),
    "pink": (255, 130, 190),
    "turquoise": (30, 210, 200),
}
BACKGROUNDS = {
    "white": (250, 250, 250),
    "grey": (150, 150, 150),
    "black": (15, 15, 15),
    "brown": (100, 65, 40),
    "beige": (235, 220, 185),
}
SIZES = {"small": 0.26, "large": 0.46}  # half the object's width, in grid cells
SIZE_WORDS = {"small": ("small", "little", "tiny"), "large": ("large", "big", "huge")}
PLACES = {
    (0, 0): ("in the top left corner", "at the upper left"),
    (0, 1): ("at the top", "in the middle of the top edge"),
    (0, 2): ("in the top right corner", "at the upper right"),
    (1, 0): ("on the left", "at the left edge"),
    (1, 1): ("in the centre", "in the middle"),
    (1, 2): ("on the right", "at the right edge"),
    (2, 0): ("in the bottom left corner", "at the lower left"),
    (2, 1): ("at the bottom", "in the middle of the bottom edge"),
    (2, 2): ("in the bottom right corner", "at the lower right"),
}
NUMBERS = {2: "two", 3: "three"}


@dataclass(frozen=True)
class SceneObject:
    shape: str
    colour: str
    size: str
    place: tuple[int, int]  # row, column of a 3 x 3 grid


@dataclass(frozen=True)
class Scene:
    background: str
    objects: tuple[SceneObject, ...]


@dataclass(frozen=True)
class Facts:
    """What a caption states: partial descriptions of distinct objects, and possibly more.

    `objects[i]` maps attribute names to values; `relation` is that of object 0 to object 1 ("above" or "left of").
    """

    objects: tuple[dict, ...]
    background: str | None = None
    count: int | None = None
    relation: str | None = None

    def hold_in(self, scene: Scene) -> bool:
        """Whether some choice of different objects of `scene` has every stated attribute."""
        if self.background is not None and self.background != scene.background:
            return False
        if self.count is not None and self.count != len(scene.objects):
            return False
        for chosen in permutations(scene.objects, len(self.objects)):
            stated = zip(self.objects, chosen, strict=True)
            if all(getattr(thing, key) == value for facts, thing in stated for key, value in facts.items()) and (
                self.relation is None or relates(self.relation, chosen[0], chosen[1])
            ):
                return True
        return False


def relates(relation: str, first: SceneObject, second: SceneObject) -> bool:
    axis = 0 if relation == "above" else 1
    return first.place[axis] < second.place[axis]


def captions(scene: Scene, number: int, rng: np.random.Generator) -> list[tuple[str, Facts]]:
    """Write `number` different captions of `scene`, rotating through the five styles."""
    styles = (_with_places, _with_sizes, _with_relation, _without_a_colour, _without_an_object)
    written: dict[str, Facts] = {}
    turn = int(rng.integers(len(styles)))
    for attempt in range(number * 50):
        if len(written) == number:
            break
        text, facts = styles[(turn + len(written) + attempt // (10 * number)) % len(styles)](scene, rng)
        written.setdefault(text, facts)
    if len(written) < number:
        raise RuntimeError(f"only {len(written)} different captions of {scene}, but {number} were requested")
    return list(written.items())


def _with_places(scene: Scene, rng: np.random.Generator) -> tuple[str, Facts]:
    """Colours, shapes and places; no sizes, no background."""
    things = _shuffled(scene, rng)
    parts = [_name(thing, rng) + " " + _place(thing, rng) for thing in things]
    text = _pick(rng, "{}", "there is {}", "a picture of {}", "we see {}").format(_list(parts, rng))
    return text, Facts(tuple(_facts(thing, "colour", "shape", "place") for thing in things))


def _with_sizes(scene: Scene, rng: np.random.Generator) -> tuple[str, Facts]:
    """Sizes, colours, shapes and the background; no places."""
    things = _shuffled(scene, rng)
    parts = _list([_name(thing, rng, size=True) for thing in things], rng)
    ground = scene.background
    text = _pick(
        rng,
        f"{parts} on {_a(ground)} background",
        f"on {ground} ground, {parts}",
        f"{_a(ground)} picture with {parts}",
    )
    return text, Facts(tuple(_facts(thing, "size", "colour", "shape") for thing in things), background=ground)


def _with_relation(scene: Scene, rng: np.random.Generator) -> tuple[str, Facts]:
    """How two of the objects are placed relative to each other, and the number of objects; no sizes, no background."""
    things = _shuffled(scene, rng)
    first, second, *others = things
    relation = (
        "above"
        if first.place[0] != second.place[0] and (first.place[1] == second.place[1] or rng.random() < 0.5)
        else "left of"
    )
    if not relates(relation, first, second):
        first, second = second, first
    words = (
        _pick(rng, "above", "higher up than")
        if relation == "above"
        else _pick(rng, "to the left of", "further left than")
    )
    text = f"{_name(first, rng)} {words} {_name(second, rng)}"
    if others:
        text += _pick(rng, ", and also ", ", with ", ", together with ") + _list(
            [_name(thing, rng) for thing in others], rng
        )
    count = NUMBERS[len(things)]
    text = _pick(rng, f"{count} shapes: {text}", f"{text}, {count} shapes in all")
    stated = (first, second, *others)
    return text, Facts(
        tuple(_facts(thing, "colour", "shape") for thing in stated), count=len(things), relation=relation
    )


def _without_a_colour(scene: Scene, rng: np.random.Generator) -> tuple[str, Facts]:
    """One object without its colour; places and the background."""
    things = _shuffled(scene, rng)
    parts = [_a(things[0].shape) + " " + _place(things[0], rng)]
    parts += [_name(thing, rng) + " " + _place(thing, rng) for thing in things[1:]]
    parts = [parts[i] for i in rng.permutation(len(parts))]
    ground = scene.background
    text = _pick(rng, f"{_list(parts, rng)}, all on {ground}", f"the background is {ground}, with {_list(parts, rng)}")
    facts = (_facts(things[0], "shape", "place"), *(_facts(thing, "colour", "shape", "place") for thing in things[1:]))
    return text, Facts(facts, background=ground)


def _without_an_object(scene: Scene, rng: np.random.Generator) -> tuple[str, Facts]:
    """Everything about two of the objects, nothing about a third; with two objects, no background."""
    things = _shuffled(scene, rng)
    ground = scene.background if len(things) > 2 else None
    things = things[:2]
    parts = [_name(thing, rng, size=True) + " " + _place(thing, rng) for thing in things]
    text = parts[0] + _pick(rng, " and ", ", and ", " along with ") + parts[1]
    if ground:
        text = _pick(rng, f"{text}, {ground} behind", f"in front of {ground} there is {text}")
    return text, Facts(tuple(_facts(thing, "size", "colour", "shape", "place") for thing in things), background=ground)


def _facts(thing: SceneObject, *names: str) -> dict:
    return {name: getattr(thing, name) for name in names}


def _shuffled(scene: Scene, rng: np.random.Generator) -> list[SceneObject]:
    return [scene.objects[i] for i in rng.permutation(len(scene.objects))]


def _pick(rng: np.random.Generator, *choices: str) -> str:
    return choices[int(rng.integers(len(choices)))]


def _a(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def _name(thing: SceneObject, rng: np.random.Generator, size: bool = False) -> str:
    words = f"{thing.colour} {thing.shape}"
    return _a(f"{_pick(rng, *SIZE_WORDS[thing.size])} {words}" if size else words)


def _place(thing: SceneObject, rng: np.random.Generator) -> str:
    return _pick(rng, *PLACES[thing.place])


def _list(parts: list[str], rng: np.random.Generator) -> str:
    if len(parts) == 1:
        return parts[0]
    return ", ".join(parts[:-1]) + _pick(rng, " and ", ", and ") + parts[-1]
