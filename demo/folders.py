"""Scenes written to disk as a folder of class folders, with their masks beside it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from conceptatlas.demo.scenes import Scene
from conceptatlas.demo.splits import SceneSplit


def write_folder(split: SceneSplit, path: str | Path, *, image_format: str = "png", masks: bool = False) -> list[Path]:
    """Write the scenes of a split as ``path/<class>/<number>.png`` (or ``.jpg``).

    Parameters
    ----------
    split
        Of `make_split`.
    path
        Folder to write into; made where it is missing.
    image_format
        ``"png"`` or ``"jpg"``.
    masks
        Also write ``<path>-truth/<class>/<number>.npz`` (one array of booleans (h, w) per thing) and ``.json`` (the
        attributes): beside the images, never among them.

    Returns
    -------
    list of Path
        The images, in the order of the split.

    Raises
    ------
    ValueError
        For another format.

    Examples
    --------
    >>> import tempfile
    >>> from conceptatlas.demo.config import SceneConfig
    >>> from conceptatlas.demo.splits import make_split
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     written = write_folder(make_split(SceneConfig(), "audit", 3), folder)
    >>> len(written), written[0].suffix
    (3, '.png')
    """
    if image_format not in ("png", "jpg"):
        raise ValueError(f"image_format is png or jpg, got {image_format!r}")
    root, written = Path(path), []
    for index in range(len(split)):
        scene = split[index]
        place = Path(scene.class_name) / f"{index:05d}"
        target = root / place.with_suffix(f".{image_format}")
        target.parent.mkdir(parents=True, exist_ok=True)
        if image_format == "jpg":
            scene.image.save(target, quality=95, subsampling=0)
        else:
            scene.image.save(target, compress_level=1)
        written.append(target)
        if masks:
            _write_truth(scene, root.with_name(f"{root.name}-truth") / place)
    return written


def read_masks(path: str | Path) -> dict[str, np.ndarray]:
    """The masks that `write_folder` wrote for one scene: name -> (h, w) booleans.

    Parameters
    ----------
    path
        The ``.npz`` file.
    """
    with np.load(Path(path)) as stored:
        return {name: stored[name] for name in stored.files}


def _write_truth(scene: Scene, stem: Path) -> None:
    """Masks and attributes of one scene."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(stem.with_suffix(".npz"), **scene.parts)  # type: ignore[arg-type]
    stem.with_suffix(".json").write_text(json.dumps(scene.attributes), encoding="utf-8")


def contact_sheet(images: list[Image.Image], columns: int = 8) -> Image.Image:
    """Images of one size side by side, to be looked at.

    Examples
    --------
    >>> contact_sheet([Image.new("RGB", (10, 10))] * 3, columns=2).size
    (20, 20)
    """
    width, height = images[0].size
    sheet = Image.new("RGB", (columns * width, -(-len(images) // columns) * height), "white")
    for index, image in enumerate(images):
        sheet.paste(image, (index % columns * width, index // columns * height))
    return sheet
