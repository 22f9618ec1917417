"""Embeddings that are kept: an encoder that remembers, by the content of what it has seen, across runs."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors import SafetensorError
from safetensors.numpy import load, save

from conceptatlas.concepts.encoders import TextImageEncoder
from conceptatlas.extraction.errors import UserError

_LOG = logging.getLogger(__name__)
_KEY_BYTES = 16


class CachedEncoder:
    """A `TextImageEncoder` that asks another one only for what it has not seen before.

    Images are known by their pixels and texts by their letters, under the encoder's id, so a change of either is never
    answered from the cache. Every call that meets something new adds one file; a file that is torn is passed over.

    Parameters
    ----------
    encoder : TextImageEncoder
        What embeds.
    folder : path
        Where the embeddings are kept; made if missing.

    Raises
    ------
    UserError
        Where the folder cannot be made.

    Examples
    --------
    >>> class Lengths:
    ...     id, dim = "lengths", 1
    ...     def encode_images(self, images): return np.ones((len(images), 1), dtype=np.float32)
    ...     def encode_texts(self, texts): return np.array([[len(t)] for t in texts], dtype=np.float32)
    >>> encoder = CachedEncoder(Lengths(), tempfile.mkdtemp())
    >>> encoder.encode_texts(["ab", "a", "ab"]).ravel().tolist(), encoder.misses
    ([2.0, 1.0, 2.0], 2)
    """

    def __init__(self, encoder: TextImageEncoder, folder: str | Path) -> None:
        self.encoder, self.id, self.dim = encoder, encoder.id, encoder.dim
        self.folder = Path(folder) / hashlib.blake2b(self.id.encode(), digest_size=8).hexdigest()
        self.misses = 0
        if hasattr(encoder, "templates"):
            self.templates = encoder.templates
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"Embeddings cannot be kept in {folder}: {error}.") from error
        self._known: dict[bytes, np.ndarray] = {}
        for file in sorted(self.folder.glob("*.safetensors")):
            self._known.update(_read(file, self.dim))

    def encode_images(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Unit-norm float32 embeddings, (n, dim)."""
        return self._encode(images, [_image_key(image) for image in images], self.encoder.encode_images)

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit-norm float32 embeddings, (n, dim)."""
        return self._encode(texts, [_key(b"text", text.encode()) for text in texts], self.encoder.encode_texts)

    def _encode(self, items: Sequence[Any], keys: list[bytes], encode: Callable[[list[Any]], np.ndarray]) -> np.ndarray:
        new = {key: item for key, item in zip(keys, items, strict=True) if key not in self._known}
        if new:
            values = np.asarray(encode(list(new.values())), dtype=np.float32)
            self._known.update(zip(new, values, strict=True))
            self._keep(list(new), values)
            self.misses += len(new)
        if not keys:
            return np.zeros((0, self.dim), dtype=np.float32)
        return np.stack([self._known[key] for key in keys])

    def _keep(self, keys: list[bytes], values: np.ndarray) -> None:
        codes = np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(len(keys), _KEY_BYTES)
        data = save({"keys": codes, "values": np.ascontiguousarray(values)})
        name = hashlib.blake2b(data, digest_size=12).hexdigest() + ".safetensors"
        try:
            handle, temporary = tempfile.mkstemp(dir=self.folder)
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
            Path(temporary).replace(self.folder / name)
        except OSError as error:
            _LOG.warning("embeddings are not kept in %s: %s", self.folder, error)


def _read(file: Path, dim: int) -> dict[bytes, np.ndarray]:
    """What a file of the cache holds; nothing where it is torn or of another shape."""
    try:
        data = file.read_bytes()
        if hashlib.blake2b(data, digest_size=12).hexdigest() == file.stem:
            tensors = load(data)
            keys, values = tensors["keys"], tensors["values"]
            if values.shape == (len(keys), dim) and keys.shape[1:] == (_KEY_BYTES,):
                return {key.tobytes(): value for key, value in zip(keys, values, strict=True)}
    except (OSError, SafetensorError, KeyError) as error:
        _LOG.warning("%s cannot be read: %s", file, error)
    _LOG.warning("%s is torn and passed over; its embeddings are computed again", file)
    return {}


def _image_key(image: Image.Image) -> bytes:
    rgb = image.convert("RGB")
    return _key(b"image", b"%dx%d" % rgb.size, rgb.tobytes())


def _key(*parts: bytes) -> bytes:
    state = hashlib.blake2b(digest_size=_KEY_BYTES)
    for part in parts:
        state.update(len(part).to_bytes(8, "little"))
        state.update(part)
    return state.digest()
