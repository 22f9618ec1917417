"""What a concept's map leaves to be seen of an image: the input of a text encoder that is asked about the concept.

After ViG-Bias (Marani et al., ECCV 2024), which keeps the region of one class heat map; here it is a concept's map.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from PIL import Image, ImageFilter

from conceptatlas.audit.examples import crop_box
from conceptatlas.extraction.errors import UserError

MaskMode = Literal["blur", "mean", "crop"]
BLUR = 0.08  # radius, as a share of the shorter side


def mask_with_map(
    image: Image.Image, concept_map: np.ndarray, *, quantile: float = 0.8, mode: MaskMode = "blur"
) -> Image.Image:
    """Return an image of which only the region where a map is strongest can be seen.

    Parameters
    ----------
    image
        What the model saw, RGB.
    concept_map
        (h, w) map, not negative, at any resolution.
    quantile
        The region holds the pixels from this quantile of the map on, in (0, 1). Not used by ``"crop"``.
    mode
        What becomes of the rest: ``"blur"`` it, ``"mean"``: the image's mean colour, ``"crop"``: cut it off (the box
        of `crop_box`).

    Raises
    ------
    UserError
        For an unknown mode or a quantile outside (0, 1).

    Examples
    --------
    >>> image = Image.new("RGB", (8, 8), "black"); image.paste("white", (0, 0, 4, 8))
    >>> concept_map = np.zeros((8, 8)); concept_map[:, :4] = 1
    >>> masked = mask_with_map(image, concept_map, quantile=0.5, mode="mean")
    >>> masked.getpixel((1, 1)), masked.getpixel((6, 1))
    ((255, 255, 255), (128, 128, 128))
    """
    if mode not in get_args(MaskMode):
        raise UserError(f"mode must be one of {', '.join(get_args(MaskMode))}, not {mode!r}")
    if not 0 < quantile < 1:
        raise UserError(f"quantile must lie between 0 and 1, not {quantile}")
    if mode == "crop":
        return image.crop(crop_box(concept_map, image.size))
    soft = Image.fromarray(np.asarray(concept_map, np.float32)).resize(image.size, Image.Resampling.BILINEAR)
    values = np.asarray(soft)
    kept = (values >= np.quantile(values, quantile)) & (values > 0)
    return Image.composite(image, _rest(image, mode), Image.fromarray(np.where(kept, 255, 0).astype(np.uint8)))


def _rest(image: Image.Image, mode: str) -> Image.Image:
    if mode == "blur":
        return image.filter(ImageFilter.GaussianBlur(BLUR * min(image.size)))
    mean = np.asarray(image, np.float32).reshape(-1, 3).mean(0) + 0.5
    return Image.new("RGB", image.size, tuple(int(value) for value in mean))
