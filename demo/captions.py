"""Words for what scenes show: phrases per part, captions of whole scenes, and the words present in a crop."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from conceptatlas.demo.config import PARTS
from conceptatlas.demo.scenes import Scene

Box = tuple[int, int, int, int]

#: Phrases for each named thing; the first is its name.
PHRASES: dict[str, tuple[str, ...]] = {
    "striped coat": ("striped coat", "stripes", "striped fur"),
    "spotted coat": ("spotted coat", "spots", "spotted fur"),
    "checkered coat": ("checkered coat", "checks", "checkered fur"),
    "horns": ("horns", "horn", "dark horns"),
    "red crest": ("red crest", "crest"),
    "round ears": ("round ears", "ears", "pink ears"),
    "fan tail": ("fan tail", "blue tail", "blue fan tail"),
    "ringed tail": ("ringed tail", "rings", "black and white tail"),
    "bushy tail": ("bushy tail", "orange tail"),
    "yellow wing": ("yellow wing", "wing"),
    "green shell": ("green shell", "shell"),
    "purple fin": ("purple fin", "fin"),
    "tag": ("tag", "white tag", "plate", "label", "sign"),
    "border": ("border", "frame"),
    "hatching": ("hatching", "crosshatch pattern"),
    "colour cast": ("colour cast", "pink haze"),
    "head": ("head", "face"),
    "legs": ("legs", "leg"),
    "eye": ("eye",),
    "grass": ("grass", "meadow"),
    "sand": ("sand", "desert sand"),
    "water": ("water", "waves"),
    "snow": ("snow",),
    "rock": ("rock", "grey rock"),
    "leaves": ("leaves", "fallen leaves"),
    "stone": ("stone", "pebble"),
    "flower": ("flower", "white flower"),
    "twig": ("twig", "stick"),
    "mushroom": ("mushroom",),
}

#: Words that hold for several things at once: colours and wider names.
GROUPS: dict[str, tuple[str, ...]] = {
    "red": ("red crest",),
    "yellow": ("yellow wing",),
    "green": ("green shell", "grass"),
    "blue": ("fan tail",),
    "purple": ("purple fin",),
    "orange": ("bushy tail",),
    "pink": ("round ears", "colour cast"),
    "tail": ("fan tail", "ringed tail", "bushy tail"),
    "fur": ("striped coat", "spotted coat", "checkered coat", "coat"),
}

#: Ways to say a phrase; the templates of the naming are among them.
TEMPLATES: tuple[str, ...] = (
    "{}",
    "a photo of a {}",
    "a photo of {}",
    "a close-up photo of {}",
    "a cropped photo of {}",
    "{} texture",
    "a picture of the {}",
    "an animal with {}",
)


def part_words() -> tuple[str, ...]:
    """One name per thing that a scene can show: the vocabulary that the demo names concepts with.

    Examples
    --------
    >>> "fan tail" in part_words(), "tag" in part_words()
    (True, True)
    """
    return tuple(PHRASES)


def all_phrases() -> tuple[str, ...]:
    """Every phrase, names and synonyms and wider words, in a fixed order."""
    return tuple(phrase for phrases in PHRASES.values() for phrase in phrases) + tuple(GROUPS)


def captions(scene: Scene, rng: np.random.Generator, *, n_single: int = 3) -> list[str]:
    """Captions of a scene: one that names everything, then `n_single` that name one thing each.

    Examples
    --------
    >>> from conceptatlas.demo.config import SceneConfig
    >>> from conceptatlas.demo.scenes import make_scene
    >>> captions(make_scene(SceneConfig(), 0, 0), np.random.default_rng(0))[0].count(",") >= 2
    True
    """
    present = [name for name in PHRASES if name in scene.parts and name not in ("head", "legs", "eye")]
    ground = str(scene.attributes["background"])
    deciding = [name for name in present if name in PARTS]
    others = [name for name in present if name not in PARTS and name != ground]
    said = [_phrase(name, rng) for name in rng.permutation(deciding)]
    full = f"an animal with {', '.join(said) or 'plain fur'} on {_phrase(ground, rng)}"
    if others:
        full += ", " + ", ".join(_phrase(name, rng) for name in rng.permutation(others))
    singles = rng.permutation([*present, ground])[:n_single]
    return [full, *(_said(_phrase(str(name), rng), rng) for name in singles)]


def words_in_crop(scene: Scene, box: Box) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which of `all_phrases` hold in a crop, and which can be told, each of shape (number of phrases,).

    A thing is there when the crop shows at least half of what the scene shows of it, or when it fills a tenth of the
    crop (the ground: a fifth). It is absent when the crop shows less than a tenth of it and it fills less than 3 % of
    the crop (the ground: 2 %). Between the two it is better not asked about.

    Parameters
    ----------
    scene
        With its masks.
    box
        (left, top, right, bottom) in pixels.

    Examples
    --------
    >>> from conceptatlas.demo.config import SceneConfig
    >>> from conceptatlas.demo.scenes import make_scene
    >>> there, known = words_in_crop(make_scene(SceneConfig(), 0, 0), (0, 0, 96, 96))
    >>> [all_phrases()[i] for i in np.flatnonzero(there & known)][:2]
    ['striped coat', 'stripes']
    """
    ground = str(scene.attributes["background"])
    state = {name: _state(scene, name, ground, box) for name in (*PHRASES, "coat")}
    values = [state[name] for name, phrases in PHRASES.items() for _ in phrases]
    for names in GROUPS.values():
        members = [state[name] for name in names]
        values.append(1 if 1 in members else (-1 if -1 in members else 0))
    found = np.array(values)
    return found == 1, found >= 0


def _state(scene: Scene, name: str, ground: str, box: Box) -> int:
    """1 where a thing is in a crop, 0 where it is not, -1 where it is hard to say."""
    mask = scene.parts.get("background" if name == ground else name)
    if mask is None:
        return 0
    left, top, right, bottom = box
    inside = int(mask[top:bottom, left:right].sum())
    of_crop, of_thing = inside / max(1, (right - left) * (bottom - top)), inside / int(mask.sum())
    if name == ground:
        return 1 if of_crop >= 0.2 else (0 if of_crop < 0.02 else -1)
    if of_thing >= 0.5 or of_crop >= 0.1:
        return 1
    return 0 if of_thing < 0.1 and of_crop < 0.03 else -1


def say(phrases: Sequence[str], rng: np.random.Generator) -> list[str]:
    """Each phrase in a drawn template."""
    return [_said(phrase, rng) for phrase in phrases]


def _said(phrase: str, rng: np.random.Generator) -> str:
    return TEMPLATES[int(rng.integers(len(TEMPLATES)))].format(phrase)


def _phrase(name: str, rng: np.random.Generator) -> str:
    phrases = PHRASES[name]
    return phrases[int(rng.integers(len(phrases)))]
