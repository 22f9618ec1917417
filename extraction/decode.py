"""Reading one image file into the pixels that every later stage shares: upright, RGB, 8 bits.

Rules that are fixed here, so that the model, the crops and the thumbnails see the same picture:

- 16-bit greys are divided by 257. Float images and greys of 32 bits are taken as 0..1 (floats), 0..255 or 0..65535 by
  their largest value, and refused where no range makes that value at least an eighth of white: they would be black.
- Transparency is composited on :data:`BACKGROUND`; EXIF orientation is applied; ICC profiles are not.
- The first frame of an animation or a multi-page file is taken.
- More than :data:`MAX_PIXELS` pixels are refused before any is decoded; a JPEG of more than :data:`DRAFT_PIXELS` is
  decoded at the largest of its own scales (1/2, 1/4, 1/8) that is below.
"""

from __future__ import annotations

import io
import logging
import os
import stat
import threading
import warnings
from typing import IO, TypeAlias

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from conceptatlas.extraction.errors import ImageError

logger = logging.getLogger(__name__)

BACKGROUND = (255, 255, 255)
"""The colour that shows through transparent pixels."""

MAX_PIXELS = 89_478_485
"""Images of more pixels are refused as decompression bombs (the point where Pillow starts to warn)."""

DRAFT_PIXELS = 16_000_000
"""JPEGs of more pixels are decoded at a reduced scale of the JPEG's own transform."""

ImageInput: TypeAlias = "str | os.PathLike[str] | bytes | IO[bytes] | Image.Image"

_SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")
_TIFF_MAGIC = (b"II*\0", b"MM\0*")
_ORIENTATION_TAG, _PHOTOMETRIC_TAG = 0x0112, 0x0106
_DARKEST = 8  # the largest value of a range is at least white divided by this
_QUIET = threading.Lock()  # the filters of warnings belong to the whole process


def decode_image(source: ImageInput, *, name: str | None = None) -> Image.Image:
    """Return the picture as an upright 8-bit RGB image with all its pixels loaded.

    Parameters
    ----------
    source
        A path, the bytes of a file, a file opened for reading bytes, or a PIL image (left as it was).
    name
        What errors call the image; the path where there is one.

    Returns
    -------
    PIL.Image.Image
        Mode ``RGB``. ``image.info["notes"]`` is a tuple of short remarks, such as ``"first of 12 frames"``.

    Raises
    ------
    ImageError
        The image cannot be used. ``cause`` is one of ``missing``, ``permission``, ``not_a_file``, ``unreadable``,
        ``empty``, ``not_an_image``, ``unsupported``, ``bomb``, ``truncated``, ``corrupt``, ``range``.

    Examples
    --------
    >>> from PIL import Image
    >>> decode_image(Image.new("RGBA", (4, 3), (0, 0, 0, 0))).getpixel((0, 0))
    (255, 255, 255)
    """
    if isinstance(source, Image.Image):
        return _finish(source, name or getattr(source, "filename", "") or "image")
    name = name or _name_of(source)
    data = _read(source, name)
    try:
        return _decode(data, name)
    except ImageError as error:
        if error.cause == "bomb" or not isinstance(error.__cause__, Warning):
            raise
    with _QUIET, warnings.catch_warnings():  # warnings are errors here, and one of Pillow's is no reason to refuse
        warnings.simplefilter("ignore")
        return _decode(data, name)


def _decode(data: bytes, name: str) -> Image.Image:
    with _open(data, name) as image:
        return _finish(image, name)


def _name_of(source: object) -> str:
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    return str(getattr(source, "name", "image"))


def _read(source: str | os.PathLike[str] | bytes | IO[bytes], name: str) -> bytes:
    """Return the bytes of the file. A FIFO, a device or a folder is refused without being read."""
    if source is None:
        raise ImageError(name, "missing", "None in place of an image")
    if isinstance(source, bytes):
        return source
    if not isinstance(source, (str, os.PathLike)):
        return source.read()
    try:
        handle = os.open(source, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with open(handle, "rb") as file:  # noqa: PTH123 - a descriptor, not a path
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise ImageError(name, "not_a_file", "neither a file nor a link to one")
            return file.read()
    except FileNotFoundError as error:
        raise ImageError(name, "missing", f"FileNotFoundError: {error.strerror}") from error
    except PermissionError as error:
        raise ImageError(name, "permission", f"PermissionError: {error.strerror}") from error
    except IsADirectoryError as error:
        raise ImageError(name, "not_a_file", "a folder") from error
    except (OSError, ValueError) as error:
        raise ImageError(name, "unreadable", f"{type(error).__name__}: {error}") from error


def _open(data: bytes, name: str) -> Image.Image:
    """Read the header, and refuse what is empty, unknown or too large before a pixel is decoded."""
    if not data:
        raise ImageError(name, "empty", "zero bytes")
    try:
        image = Image.open(io.BytesIO(data))
    except UnidentifiedImageError as error:
        raise _unidentified(data, name) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(name, "bomb", f"{type(error).__name__}: {error}") from error
    except Exception as error:  # the file is untrusted: its parser may raise anything
        raise ImageError(name, "corrupt", f"{type(error).__name__}: {error}") from error
    return image


def _unidentified(data: bytes, name: str) -> ImageError:
    head = data[:512].lstrip()
    if data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS:
        remedy = "HEIC needs `pip install pillow-heif` and pillow_heif.register_heif_opener()"
        return ImageError(name, "unsupported", remedy)
    if data[:4] in _TIFF_MAGIC:
        return ImageError(name, "unsupported", "a torn TIFF, or one of a kind that Pillow does not read: make it a PNG")
    if head.startswith(b"<svg") or (head.startswith(b"<?xml") and b"<svg" in data[:4096]):
        return ImageError(name, "unsupported", "SVG is not a raster image: convert it to PNG first")
    return ImageError(name, "not_an_image", "UnidentifiedImageError: no known image format")


def _finish(image: Image.Image, name: str) -> Image.Image:
    """Check the size, load the pixels, and bring them to upright RGB."""
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ImageError(name, "bomb", f"{width} x {height} pixels; at most {MAX_PIXELS:,} are read")
    notes = _frames(image) + _draft(image)
    try:
        _load(image)
        orientation, corrupt = _orientation(image)
        picture = _to_rgb(image, name)
        method = _TRANSPOSE.get(orientation)
        picture = picture.transpose(method) if method is not None else picture
    except ImageError:
        raise
    except Exception as error:  # the file is untrusted: its decoder may raise anything
        cause = "truncated" if "truncated" in str(error).lower() else "corrupt"
        raise ImageError(name, cause, f"{type(error).__name__}: {error}") from error
    picture.info = {"notes": notes + corrupt}
    return picture


def _load(image: Image.Image) -> None:
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        logger.warning("ImageFile.LOAD_TRUNCATED_IMAGES is set: switching it off, or torn files would be read as grey")
        ImageFile.LOAD_TRUNCATED_IMAGES = False
    image.load()


def _frames(image: Image.Image) -> tuple[str, ...]:
    try:
        count = int(getattr(image, "n_frames", 1))
    except Exception:  # counting frames walks the file, which may be torn; loading the first one will tell
        return ()
    return (f"first of {count} frames",) if count > 1 else ()


def _draft(image: Image.Image) -> tuple[str, ...]:
    """Ask a huge JPEG for the largest of its reduced scales that has at most :data:`DRAFT_PIXELS` pixels."""
    width, height = image.size
    if image.format not in ("JPEG", "MPO") or width * height <= DRAFT_PIXELS:
        return ()
    for scale in (2, 4, 8):
        if (width // scale) * (height // scale) <= DRAFT_PIXELS:
            image.draft(image.mode, (width // scale, height // scale))
            return (f"decoded at 1/{scale} of {width} x {height}",)
    return ()


def _orientation(image: Image.Image) -> tuple[int, tuple[str, ...]]:
    """Return the EXIF orientation (1 where there is none), and a remark where the block cannot be read."""
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1)), ()
    except Exception:  # a corrupt EXIF block must not cost the pixels
        return 1, ("corrupt EXIF ignored",)


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode in (*_SIXTEEN_BIT, "I", "F"):
        return _from_grey(_deep_grey(image, name))
    if image.mode == "La":  # Pillow knows no way from it to RGBA but this
        return _composite(image.convert("LA"))
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        return _composite(image)
    if image.mode == "LAB":
        raise ImageError(name, "unsupported", "CIELAB pixels: convert the file to RGB first")
    picture = image.convert("RGB")
    return picture.copy() if picture is image else picture


def _composite(image: Image.Image) -> Image.Image:
    rgba = image.convert("RGBA")
    canvas = Image.new("RGBA", rgba.size, (*BACKGROUND, 255))
    return Image.alpha_composite(canvas, rgba).convert("RGB")


def _deep_grey(image: Image.Image, name: str) -> np.ndarray:
    """Return the greys of an image of more than 8 bits, in 0..255 (h, w)."""
    pixels = np.asarray(image)
    grey = _scaled(pixels, _ranges_of(image), name)
    if getattr(image, "tag_v2", {}).get(_PHOTOMETRIC_TAG) == 0:  # white is zero, which Pillow heeds up to 8 bits
        grey = 255.0 - grey
    transparent = image.info.get("transparency")
    return grey if transparent is None else np.where(pixels == transparent, np.float32(BACKGROUND[0]), grey)


def _ranges_of(image: Image.Image) -> tuple[float, ...]:
    """Return what may be white in a grey image of more than 8 bits; Pillow reads some 16-bit files as 32-bit ones."""
    if image.mode == "F":
        return (1.0, 255.0, 65535.0)
    sixteen = image.mode in _SIXTEEN_BIT or image.format in ("PNG", "PPM")
    return (65535.0,) if sixteen else (255.0, 65535.0)


def _scaled(pixels: np.ndarray, whites: tuple[float, ...], name: str) -> np.ndarray:
    """Scale greys to 0..255 by the first of several ranges, from 0 to white, that holds them."""
    low, high = float(pixels.min()), float(pixels.max())
    white = next((white for white in whites if high <= white), None)
    if not np.isfinite(pixels).all() or low < 0 or white is None:
        ranges = " and ".join(f"0..{white:g}" for white in whites)
        raise ImageError(name, "range", f"grey values {low:g}..{high:g}; {ranges} are read")
    if white != whites[0] and high < white / _DARKEST:
        raise ImageError(
            name, "range", f"grey values {low:g}..{high:g}, which of 0..{white:g} would be all but black: scale them"
        )
    return pixels.astype(np.float32) * (255.0 / white)


def _from_grey(values: np.ndarray) -> Image.Image:
    """Return an RGB image of grey values in 0..255 (h, w), rounded."""
    return Image.fromarray(np.rint(values).astype(np.uint8)).convert("RGB")
