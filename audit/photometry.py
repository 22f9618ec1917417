"""What can be measured on the pixels of a whole image: its light, its colours, its sharpness."""

from __future__ import annotations

import numpy as np
from PIL import Image

#: Each property with the words for more and for less of it, in the order of `photometry`.
PROPERTIES: tuple[tuple[str, str], ...] = (
    ("bright", "dark"),
    ("strong contrast", "weak contrast"),
    ("pale shadows", "deep shadows"),
    ("bright highlights", "dull highlights"),
    ("reddish", "greenish"),
    ("yellowish", "bluish"),
    ("strong colours", "pale colours"),
    ("sharp", "blurred"),
    ("fine grain", "smooth"),
)
_SIDE = 112  # pixels: colours and light are read from a small copy
_LUMA = np.array([0.299, 0.587, 0.114])


def photometry(view: Image.Image) -> np.ndarray:
    """Return the `PROPERTIES` of an image, (9,): each higher where the image has more of it, on scales of their own.

    Mean, spread and the 2 % and 98 % quantiles of the luma; red less green; yellow less blue; the range of the three
    channels; the mixed second difference against the first ones, and by itself, both as logarithms.

    Examples
    --------
    >>> red, grey = (photometry(Image.new("RGB", (32, 32), colour)) for colour in ("red", "grey"))
    >>> bool(red[4] > grey[4]), bool(red[6] > grey[6])
    (True, True)
    """
    small = np.asarray(view.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BILINEAR), np.float64) / 255
    red, green, blue = small[..., 0], small[..., 1], small[..., 2]
    luma = small @ _LUMA
    detail, slope = _detail(np.asarray(view.convert("L"), np.float64) / 255)
    return np.array(
        [
            luma.mean(),
            luma.std(),
            np.quantile(luma, 0.02),
            np.quantile(luma, 0.98),
            (red - green).mean(),
            ((red + green) / 2 - blue).mean(),
            (small.max(-1) - small.min(-1)).mean(),
            np.log(detail / (slope + 1e-6) + 1e-6),
            np.log(detail + 1e-6),
        ]
    )


def _detail(luma: np.ndarray) -> tuple[float, float]:
    """Return the mean absolute mixed second difference, and the sum of the mean absolute first ones; 0 for a line."""
    if min(luma.shape) < 2:
        return 0.0, 0.0
    mixed = luma[1:, 1:] - luma[:-1, 1:] - luma[1:, :-1] + luma[:-1, :-1]
    slope = np.abs(np.diff(luma, axis=0)).mean() + np.abs(np.diff(luma, axis=1)).mean()
    return float(np.abs(mixed).mean()), float(slope)
