"""Measures of whole images: each answers to what it is named after, and to nothing else that it should not."""

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from conceptatlas.audit.photometry import PROPERTIES, photometry


@pytest.fixture
def view():
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(60, 200, (12, 12, 3)).astype(np.uint8)).resize((96, 96), Image.BICUBIC)
    return Image.fromarray((np.asarray(coarse, float) + rng.normal(0, 6, (96, 96, 3))).clip(0, 255).astype(np.uint8))


def change(view, edited, words):
    return (photometry(edited) - photometry(view))[[pair[0] for pair in PROPERTIES].index(words)]


def gained(view, gains):
    return Image.fromarray((np.asarray(view, float) * np.array(gains)).clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize(
    ("words", "more"),
    [
        ("bright", lambda view: ImageEnhance.Brightness(view).enhance(1.2)),
        ("strong contrast", lambda view: ImageEnhance.Contrast(view).enhance(1.5)),
        ("pale shadows", lambda view: Image.blend(view, Image.new("RGB", view.size, "white"), 0.3)),
        ("bright highlights", lambda view: ImageEnhance.Brightness(view).enhance(1.2)),
        ("reddish", lambda view: gained(view, (1.2, 0.9, 1))),
        ("yellowish", lambda view: gained(view, (1, 1, 0.7))),
        ("strong colours", lambda view: ImageEnhance.Color(view).enhance(1.6)),
    ],
)
def test_a_measure_rises_with_what_it_is_named_after(view, words, more):
    assert change(view, more(view), words) > 0.01


@pytest.mark.parametrize("words", ["sharp", "fine grain"])
def test_blur_takes_sharpness_and_grain(view, words):
    assert change(view, view.filter(ImageFilter.GaussianBlur(2)), words) < -0.2


def test_a_grey_image_has_no_colour_and_no_tint(view):
    values = dict(zip((pair[0] for pair in PROPERTIES), photometry(view.convert("L")), strict=True))
    assert abs(values["reddish"]) + abs(values["yellowish"]) + abs(values["strong colours"]) < 1e-9


@pytest.mark.parametrize("size", [(1, 1), (300, 1), (1, 40), (2, 2)])
def test_slivers_are_measured_without_a_warning(size):
    assert np.isfinite(photometry(Image.new("RGB", size, "olive"))).all()
