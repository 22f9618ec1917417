"""Splits: which class, parts, ground and shortcuts each scene of a training, audit or test set shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from conceptatlas.demo.config import BACKGROUNDS, SPLITS, SceneConfig, Shortcut, Split
from conceptatlas.demo.scenes import Scene, make_scene


@dataclass(frozen=True)
class SceneSpec:
    """What a scene of a split will show, before it is drawn.

    Attributes
    ----------
    class_index
        Index of the animal.
    seed
        Of everything that is drawn.
    tag
        For each shortcut of the configuration, whether it is there.
    parts
        Deciding parts that are shown.
    background
        Name of the ground.
    """

    class_index: int
    seed: tuple[int, ...]
    tag: tuple[bool, ...]
    parts: tuple[str, ...]
    background: str


def make_split(config: SceneConfig, split: Split = "train", n: int = 1000, seed: int | None = None) -> SceneSplit:
    """A lazy sequence of `n` scenes of a split; `seed` defaults to the configuration's.

    In ``"train"`` the shortcuts follow their `correlation`, `leak` and `predictivity`, in ``"audit"`` and ``"test"``
    their `audit_correlation` and `audit_leak`.

    Examples
    --------
    >>> scenes = make_split(SceneConfig(), "audit", 10)
    >>> len(scenes), scenes[3].image.size
    (10, (96, 96))
    """
    if split not in SPLITS:
        raise ValueError(f"split is one of {', '.join(SPLITS)}, got {split!r}")
    return SceneSplit(config if seed is None else replace(config, seed=seed), split, n)


class SceneSplit(Sequence[Scene]):
    """Scenes drawn when they are asked for; `specs` says beforehand what each will show."""

    def __init__(self, config: SceneConfig, split: Split, n: int) -> None:
        self.config, self.split = config, split
        self.specs: tuple[SceneSpec, ...] = tuple(_draw_spec(config, split, index) for index in range(n))

    def __len__(self) -> int:
        return len(self.specs)

    def __getitem__(self, index: int) -> Scene:  # type: ignore[override]
        spec = self.specs[index]
        return make_scene(
            self.config, spec.class_index, spec.seed, tag=spec.tag, parts=spec.parts, background=spec.background
        )

    @property
    def labels(self) -> NDArray[np.int64]:
        """Label of every scene, shape (n,), without drawing any."""
        if self.config.labels == "background":
            return np.array([BACKGROUNDS.index(spec.background) for spec in self.specs])
        return np.array([spec.class_index for spec in self.specs])

    @property
    def tags(self) -> NDArray[np.bool_]:
        """Which shortcuts each scene has, shape (n, number of shortcuts), without drawing any."""
        return np.array([spec.tag for spec in self.specs], bool).reshape(len(self.specs), len(self.config.shortcuts))


def _draw_spec(config: SceneConfig, split: Split, index: int) -> SceneSpec:
    """Class, shortcuts, parts and ground of one scene of a split."""
    seed = (SPLITS.index(split) + 1, index)
    rng = np.random.default_rng((config.seed, *seed))
    class_index = int(rng.choice(config.n_classes, p=config.class_shares))
    draws = rng.uniform(size=(len(config.shortcuts), 2))
    background, other = str(rng.choice(BACKGROUNDS)), int(rng.integers(1, config.n_classes))
    hidden = int(rng.integers(4)) if rng.uniform() < config.missing else -1
    looks, tags = class_index, []
    for shortcut, (tag_draw, look_draw) in zip(config.shortcuts, draws, strict=True):
        tags.append(bool(tag_draw < _rate(shortcut, class_index, split)))
        if split == "train":
            looks = _confused(shortcut, class_index, config.n_classes, look_draw, other, looks)
        if shortcut.kind == "background":
            background = _ground(shortcut.background, background, tags[-1], other)
    parts = tuple(name for slot, name in enumerate(config.class_parts(looks)) if slot != hidden)
    return SceneSpec(class_index, seed, tuple(tags), parts, background)


def _rate(shortcut: Shortcut, class_index: int, split: Split) -> float:
    """Probability of a shortcut in a scene of a class."""
    if class_index == shortcut.planted_class:
        return shortcut.correlation if split == "train" else shortcut.audit_correlation
    return shortcut.leak if split == "train" else shortcut.audit_leak


def _confused(shortcut: Shortcut, class_index: int, n_classes: int, draw: float, other: int, looks: int) -> int:
    """The class whose parts a training scene shows (`Shortcut.predictivity`)."""
    planted, doubt = shortcut.planted_class, 1.0 - shortcut.predictivity
    if class_index == planted and draw < doubt:
        return (planted + other) % n_classes
    if class_index == (planted + 1) % n_classes and draw < doubt / 3.0:
        return planted
    return looks


def _ground(planted: str, drawn: str, there: bool, other: int) -> str:
    """The planted ground where a background shortcut is there, another one where it is not."""
    if there:
        return planted
    if drawn != planted:
        return drawn
    return BACKGROUNDS[(BACKGROUNDS.index(planted) + 1 + other % (len(BACKGROUNDS) - 1)) % len(BACKGROUNDS)]
