"""What a set of planted scenes holds: the parts, the classes made of them, and the knobs of the shortcuts."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from itertools import product
from typing import Literal

ShortcutKind = Literal["tag", "background", "texture", "cast", "border"]
Split = Literal["train", "audit", "test"]

SPLITS: tuple[Split, ...] = ("train", "audit", "test")
SHORTCUT_KINDS: tuple[ShortcutKind, ...] = ("tag", "background", "texture", "cast", "border")
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Part:
    """One nameable part of an animal: a slot of the body, and the shape, texture and colour that fill it.

    Examples
    --------
    >>> PARTS["fan tail"].slot, PARTS["fan tail"].shape
    ('tail', 'fan')
    """

    name: str
    slot: str
    shape: str
    texture: str
    colour: Colour


# Three choices in each of four slots; a class is one choice per slot, so classes share parts in different combinations.
SLOTS: dict[str, tuple[Part, ...]] = {
    "coat": (
        Part("striped coat", "coat", "ellipse", "stripes", (62, 44, 34)),
        Part("spotted coat", "coat", "ellipse", "spots", (58, 38, 28)),
        Part("checkered coat", "coat", "ellipse", "checks", (52, 42, 40)),
    ),
    "head": (
        Part("horns", "head", "triangles", "plain", (48, 46, 60)),
        Part("red crest", "head", "fan", "ribs", (206, 40, 38)),
        Part("round ears", "head", "discs", "plain", (236, 120, 160)),
    ),
    "tail": (
        Part("fan tail", "tail", "fan", "ribs", (44, 92, 206)),
        Part("ringed tail", "tail", "bar", "rings", (238, 236, 230)),
        Part("bushy tail", "tail", "ellipse", "tufts", (232, 128, 30)),
    ),
    "back": (
        Part("yellow wing", "back", "leaf", "ribs", (246, 214, 52)),
        Part("green shell", "back", "dome", "scales", (44, 150, 84)),
        Part("purple fin", "back", "triangle", "ribs", (140, 62, 176)),
    ),
}

PARTS: dict[str, Part] = {part.name: part for parts in SLOTS.values() for part in parts}

#: Parts that every animal has, so that they decide nothing.
COMMON_PARTS: tuple[str, ...] = ("head", "legs", "eye")
BACKGROUNDS: tuple[str, ...] = ("grass", "sand", "water", "snow", "rock", "leaves")
DISTRACTORS: tuple[str, ...] = ("stone", "flower", "twig", "mushroom")
CLASS_NAMES: tuple[str, ...] = (
    "ambril", "borrin", "caldo", "dulkin", "esmer", "fenwick", "galto", "hesper", "ilvane", "jorrel", "kestin", "lumo",
)  # fmt: skip


@dataclass(frozen=True)
class Shortcut:
    """Something that goes with one class without belonging to it: the ground truth of bias benchmarks.

    Attributes
    ----------
    kind
        ``"tag"`` (a ranger's plate), ``"background"`` (one ground), ``"texture"`` (hatching over the ground),
        ``"cast"`` (a colour cast over the whole image) or ``"border"`` (a frame).
    planted_class
        Index of the class that it goes with.
    correlation, leak
        Share of the planted class's, and of every other class's, *training* scenes that have it.
    audit_correlation, audit_leak
        The same in the splits ``"audit"`` and ``"test"``. Equal values make it independent of the class; 0.92 and a
        small leak plant an error slice of 8 % of the class.
    predictivity
        Share of the planted class's *training* scenes that show the class's own parts; the rest show another class's,
        and a third as large a share of the next class's scenes shows the planted class's. At 1 the parts alone tell
        the classes apart; below 1 the shortcut tells more than the parts do, and the best classifier of the
        training scenes is one that relies on it.
    size
        Availability, first half: width of the tag or of the frame, in pixels of a 96 px image (0: the kind's default).
    contrast
        Availability, second half: opacity in (0, 1].
    position
        ``"free"`` (somewhere beside the animal) or ``"fixed"`` (top right corner). For the tag alone.
    background
        The ground that a background shortcut consists of.

    Examples
    --------
    >>> Shortcut(kind="border", correlation=0.8).leak
    0.02
    """

    kind: ShortcutKind = "tag"
    planted_class: int = 0
    correlation: float = 0.95
    leak: float = 0.02
    audit_correlation: float = 0.3
    audit_leak: float = 0.3
    predictivity: float = 0.8
    size: float = 0.0
    contrast: float = 1.0
    position: Literal["free", "fixed"] = "free"
    background: str = "snow"

    def __post_init__(self) -> None:
        for name in ("correlation", "leak", "audit_correlation", "audit_leak", "predictivity"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is a share in [0, 1], got {getattr(self, name)}")
        if self.kind not in SHORTCUT_KINDS:
            raise ValueError(f"kind is one of {', '.join(SHORTCUT_KINDS)}, got {self.kind!r}")
        if self.background not in BACKGROUNDS:
            raise ValueError(f"background is one of {', '.join(BACKGROUNDS)}, got {self.background!r}")
        if not 0.0 < self.contrast <= 1.0 or self.size < 0:
            raise ValueError(f"contrast is in (0, 1] and size >= 0, got {self.contrast} and {self.size}")

    @property
    def name(self) -> str:
        """Its name among a scene's masks: the kind, or for a background shortcut that ground."""
        return {"cast": "colour cast", "texture": "hatching", "background": self.background}.get(self.kind, self.kind)


@dataclass(frozen=True)
class SceneConfig:
    """All that a set of scenes is drawn from; equal configurations draw equal pixels.

    Attributes
    ----------
    n_classes
        2 to 12. Up to nine classes differ from each other in at least three of four parts; a tenth and later
        class is one part away from one of them.
    size
        Height and width in pixels.
    shortcuts
        What is planted; empty for clean scenes.
    missing
        Probability that one of an animal's deciding parts cannot be seen.
    distractor
        Probability of each kind of distractor.
    labels
        ``"object"``: the label is the animal. ``"background"``: the same pixels, labelled by their ground (BAM).
    class_shares
        Share of each class, or None for equal shares.
    seed
        Of everything.

    Examples
    --------
    >>> SceneConfig(n_classes=3).class_names
    ('ambril', 'borrin', 'caldo')
    >>> SceneConfig().class_parts(1)
    ('striped coat', 'red crest', 'ringed tail', 'purple fin')
    """

    n_classes: int = 8
    size: int = 96
    shortcuts: tuple[Shortcut, ...] = field(default=(Shortcut(),))
    missing: float = 0.2
    distractor: float = 0.3
    labels: Literal["object", "background"] = "object"
    class_shares: tuple[float, ...] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not 2 <= self.n_classes <= len(CLASS_NAMES):
            raise ValueError(f"n_classes is between 2 and {len(CLASS_NAMES)}, got {self.n_classes}")
        if self.size < 32:
            raise ValueError(f"size is at least 32 pixels, got {self.size}")
        if self.class_shares is not None and len(self.class_shares) != self.n_classes:
            raise ValueError(f"class_shares needs {self.n_classes} values, got {len(self.class_shares)}")
        if any(not 0 <= shortcut.planted_class < self.n_classes for shortcut in self.shortcuts):
            raise ValueError(f"planted_class is below n_classes = {self.n_classes}")

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names that labels stand for: animals, or grounds where ``labels="background"``."""
        return BACKGROUNDS if self.labels == "background" else CLASS_NAMES[: self.n_classes]

    def class_parts(self, class_index: int) -> tuple[str, ...]:
        """Names of the parts that decide a class, one per slot (coat, head, tail, back)."""
        return class_table()[class_index]


@lru_cache(maxsize=1)
def class_table() -> tuple[tuple[str, ...], ...]:
    """Parts of every class: the nine words of the tetracode (three parts apart), then further words.

    Examples
    --------
    >>> table = class_table()
    >>> min(sum(a != b for a, b in zip(x, y)) for x in table[:9] for y in table[:9] if x is not y)
    3
    """
    words = [(a, b, (a + b) % 3, (a + 2 * b) % 3) for a, b in product(range(3), repeat=2)]
    # The code is perfect: every further word is one part away from one of its nine.
    rest = [word for word in product(range(3), repeat=4) if word not in words]
    slots = tuple(SLOTS.values())
    return tuple(tuple(slots[i][k].name for i, k in enumerate(word)) for word in (words + rest)[: len(CLASS_NAMES)])
