"""Colours that stand out on paper and on a dark screen, and that colour-blind readers can tell apart."""

from __future__ import annotations

import itertools
import re
from importlib import resources

import numpy as np
import pytest

from conceptatlas.viz.palette import COLOURS, GREY, PAIRS, SYMBOLS, concept_styles, style_at

PAPER, DARK = "#faf9f6", "#1a1d22"
# Machado, Oliveira and Fernandes 2009, severity 1.0, applied to linear RGB.
BLINDNESS = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
}


def linear(colour: str) -> np.ndarray:
    values = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def contrast(a: str, b: str) -> float:
    weights = np.array([0.2126, 0.7152, 0.0722])
    low, high = sorted(float(weights @ linear(c)) for c in (a, b))
    return (high + 0.05) / (low + 0.05)


def lab(rgb: np.ndarray) -> np.ndarray:
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ rgb
    f = np.cbrt(np.maximum(xyz / (0.9505, 1, 1.089), 0.0089))
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def scheme_colours(scheme: str) -> dict[str, str]:
    """Return the style sheet's colours of a scheme: the dark one changes some of the light one."""
    sheet = resources.files("conceptatlas.viz").joinpath("templates/site.css").read_text(encoding="utf-8")
    light, dark = re.findall(
        r"^:root(?:\[data-theme=dark\])?\{([^}]*)\}", sheet.split(":root[data-theme=light]")[0], re.M | re.S
    )[:2]
    parts = [light] if scheme == "light" else [light, dark]
    return dict(re.findall(r"--(\w+):(#[0-9a-f]{6})", "".join(parts)))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("text", ["ink", "quiet", "link", "for", "against", "plain"])
@pytest.mark.parametrize("ground", ["paper", "sheet", "faint"])
def test_every_text_colour_can_be_read_on_every_ground(scheme: str, text: str, ground: str) -> None:
    colours = scheme_colours(scheme)
    assert contrast(colours[text], colours[ground]) >= 4.5


@pytest.mark.parametrize("colour", [*COLOURS, GREY])
@pytest.mark.parametrize("ground", [PAPER, DARK])
def test_every_colour_has_the_contrast_of_a_graphic_on_both_grounds(colour: str, ground: str) -> None:
    assert contrast(colour, ground) >= 3


@pytest.mark.parametrize("kind", BLINDNESS)
def test_colours_differ_under_colour_blindness(kind: str) -> None:
    seen = [lab(np.clip(np.array(BLINDNESS[kind]) @ linear(colour), 0, 1)) for colour in COLOURS]
    assert min(float(np.linalg.norm(a - b)) for a, b in itertools.combinations(seen, 2)) > 12


def test_colour_and_symbol_repeat_together_only_after_all_pairs() -> None:
    pairs = {(style_at(i).colour, style_at(i).symbol) for i in range(PAIRS)}
    assert len(pairs) == PAIRS
    assert style_at(PAIRS) == style_at(0)


def test_symbols_alone_tell_the_first_dozen_apart() -> None:
    assert len({style_at(i).symbol for i in range(12)}) == len(SYMBOLS) == 12


def test_only_concepts_that_dominate_ten_images_get_a_colour() -> None:
    assert set(concept_styles([0] * 9 + [1] * 10 + [2] * 30)) == {1, 2}


def test_ties_go_to_the_smaller_id() -> None:
    assert list(concept_styles([5] * 10 + [2] * 10)) == [2, 5]
