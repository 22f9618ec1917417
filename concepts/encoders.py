"""Text-image encoders: what they must offer, and the adapter for open_clip that never runs on random weights."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from PIL import Image

from conceptatlas.concepts.pretrained import Source, resolve_source
from conceptatlas.extraction.errors import UserError
from conceptatlas.extraction.products import products_by_onednn

_LOG = logging.getLogger(__name__)
TEMPLATES: tuple[str, ...] = (
    "a photo of a {}",
    "a close-up photo of {}",
    "a cropped photo of {}",
    "{} texture",
    "{}",
)
"""The sentences that a word is embedded in; its embedding is their mean."""
_PARTS = ("id", "dim", "encode_images", "encode_texts")


@runtime_checkable
class TextImageEncoder(Protocol):
    """Anything that puts images and texts into one space."""

    @property
    def id(self) -> str:
        """What the encoder and its weights are, for records and caches; two encoders never share one."""
        ...

    @property
    def dim(self) -> int:
        """Length of an embedding."""
        ...

    def encode_images(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Unit-norm float32 embeddings, (n, dim)."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit-norm float32 embeddings, (n, dim)."""
        ...


class OpenClipEncoder:
    """An open_clip model with the preprocessing and tokenizer that its weights were trained with.

    Parameters
    ----------
    name : str, default "ViT-B-32"
        A name that open_clip knows, ``"local-dir:/folder"`` (a folder with ``open_clip_config.json`` and weights: the
        safest form without a network) or ``"hf-hub:org/repo"``.
    pretrained : str or Path, optional
        With a plain name: one of its tags, or a file of weights. By default ``datacomp_xl_s13b_b90k`` for ViT-B-32.
    device : str, default "auto"
        A torch device; "auto" takes CUDA, then Apple's GPU, then the CPU.
    batch_size : int, default 64
        Images or texts per pass; halved where the device runs out of memory.
    quick_gelu : bool, optional
        With a file of weights: whether they were trained with QuickGELU (those of OpenAI, MetaCLIP and DFN were). By
        default known from the tag, or from such a word in the file's name.
    cache_dir : str or Path, optional
        Where downloads are kept.
    progress : bool, default False
        Whether to draw a progress bar.

    Raises
    ------
    UserError
        Where the model cannot be had with trained weights. The message says what to do. `WeightsUnreachable` where they
        did not come over the network.

    Examples
    --------
    >>> OpenClipEncoder("local-dir:/nowhere")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    conceptatlas.extraction.errors.CheckpointError: There is no folder /nowhere for the text-image model; give ...
    """

    def __init__(
        self,
        name: str = "ViT-B-32",
        *,
        pretrained: str | Path | None = None,
        device: str | torch.device = "auto",
        batch_size: int = 64,
        quick_gelu: bool | None = None,
        cache_dir: str | Path | None = None,
        progress: bool = False,
    ) -> None:
        if batch_size < 1:
            raise UserError(f"The batch size is at least 1, not {batch_size}.")
        source = resolve_source(name, pretrained, quick_gelu)
        self.device = _device(device)
        self.batch_size, self.progress = batch_size, progress
        self._model, self._transform, self._tokenizer = _load(source, self.device, cache_dir)
        self.id = f"open_clip/{source.label}/{_digest(self._model, repr(self._transform))}"
        self.dim = int(self.encode_texts(["a"]).shape[1])
        _LOG.info("text-image encoder %s on %s; images go through %s", self.id, self.device, self._transform)

    def encode_images(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Unit-norm float32 embeddings, (n, dim), through the validation transform of the weights."""
        return self._encode(list(images), self._images, "images")

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Unit-norm float32 embeddings, (n, dim)."""
        if isinstance(texts, str):
            raise UserError(f"Texts are given as a list, not as {texts!r}.")
        return self._encode(list(texts), self._texts, "texts")

    def _images(self, images: list[Image.Image]) -> torch.Tensor:
        batch = torch.stack([self._transform(image.convert("RGB")) for image in images])
        return self._model.encode_image(batch.to(self.device), normalize=True)

    def _texts(self, texts: list[str]) -> torch.Tensor:
        return self._model.encode_text(self._tokenizer(texts).to(self.device), normalize=True)

    def _encode(self, items: list[Any], encode: Any, what: str) -> np.ndarray:
        if not items:
            return np.zeros((0, self.dim), dtype=np.float32)
        done = [self._batch(batch, encode) for batch in self._batches(items, what)]
        embeddings = np.concatenate(done)
        if not np.isfinite(embeddings).all():
            raise UserError(f"The encoder {self.id} gave NaN or infinite embeddings of {what}; its weights are broken.")
        return embeddings

    def _batches(self, items: list[Any], what: str) -> Iterator[list[Any]]:
        from tqdm import tqdm

        starts = range(0, len(items), self.batch_size)
        for start in tqdm(starts, desc=f"embedding {what}", disable=not self.progress, leave=False):
            yield items[start : start + self.batch_size]

    @torch.inference_mode()
    def _batch(self, items: list[Any], encode: Any) -> np.ndarray:
        try:
            with products_by_onednn():
                return encode(items).float().cpu().numpy()
        except torch.cuda.OutOfMemoryError:
            if len(items) == 1:
                raise
            torch.cuda.empty_cache()
        half = (len(items) + 1) // 2
        return np.concatenate([self._batch(items[:half], encode), self._batch(items[half:], encode)])


def check_encoder(encoder: Any) -> TextImageEncoder:
    """`encoder`, where it is one.

    Raises
    ------
    UserError
        Where it lacks what a text-image encoder has; the message says what.

    Examples
    --------
    >>> check_encoder(42)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    conceptatlas.extraction.errors.UserError: A text-image encoder has id, dim, encode_images and encode_texts, ...
    """
    missing = [name for name in _PARTS if not hasattr(encoder, name)]
    if missing or isinstance(encoder, type):
        lacks = ", ".join(missing) if missing else "an instance: it is a class"
        raise UserError(
            f"A text-image encoder has id, dim, encode_images and encode_texts, but {encoder!r} lacks {lacks}; "
            'give such an object, or the name of an open_clip model, or "local-dir:/folder".'
        )
    return encoder


def embed_words(
    encoder: TextImageEncoder, words: Sequence[str], *, templates: Sequence[str] | None = None
) -> np.ndarray:
    """One unit-norm embedding per word, (v, dim): the mean over sentences that hold it.

    Parameters
    ----------
    encoder : TextImageEncoder
        What embeds the sentences.
    words : sequence of str
        The vocabulary.
    templates : sequence of str, optional
        Sentences with ``{}`` in the word's place; by default the encoder's own `templates` where it has any, else
        `TEMPLATES`.

    Raises
    ------
    UserError
        Where a template has no place for the word.
    """
    chosen = tuple(templates if templates is not None else getattr(encoder, "templates", TEMPLATES))
    for template in chosen:
        if "{}" not in template:
            raise UserError(f"A template needs {{}} where the word goes, but this one has none: {template!r}.")
    if not chosen or not len(words):
        raise UserError("Embedding words needs at least one word and one template.")
    sentences = [template.replace("{}", word) for word in words for template in chosen]
    embeddings = np.asarray(encoder.encode_texts(sentences), dtype=np.float32)
    means = embeddings.reshape(len(words), len(chosen), -1).mean(axis=1)
    return means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)


def _load(source: Source, device: torch.device, cache_dir: str | Path | None) -> tuple[Any, Any, Any]:
    import open_clip
    from open_clip.transform import PreprocessCfg, image_transform_v2

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="QuickGELU mismatch")  # set right by `source`
            model = open_clip.create_model(
                source.name,
                source.pretrained,
                device=device,
                require_pretrained=True,
                cache_dir=None if cache_dir is None else str(cache_dir),
                force_quick_gelu=source.quick_gelu,
                force_preprocess_cfg=source.preprocess,
                pretrained_text=False,
            )
            tokenizer = open_clip.get_tokenizer(source.name)
    except Exception as error:  # open_clip, the hub client and torch each raise their own
        raise source.failure(error) from error
    settings: dict[str, Any] = model.visual.preprocess_cfg  # type: ignore[assignment]
    transform = image_transform_v2(PreprocessCfg(**settings), is_train=False)
    return model.eval().requires_grad_(False), transform, tokenizer


def _device(device: str | torch.device) -> torch.device:
    if device != "auto":
        return torch.device(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _digest(model: torch.nn.Module, transform: str) -> str:
    """Twelve hex digits of the weights and the transform."""
    state = hashlib.blake2b(transform.encode(), digest_size=6)
    for name, value in model.state_dict().items():
        state.update(name.encode())
        state.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return state.hexdigest()
