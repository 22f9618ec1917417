"""One batch through a split model: in inference mode, in the layout that suits it, in halves where memory is short."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from conceptatlas.extraction.crops import CropSpec, cut_crops
from conceptatlas.extraction.errors import LayerError, UserError
from conceptatlas.extraction.features import Features
from conceptatlas.extraction.models import tensor_of

logger = logging.getLogger(__name__)

PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Split(Protocol):
    """What extraction asks of a split model."""

    model: nn.Module
    layer: Any

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        ...

    def encode(self, images: torch.Tensor) -> Features:
        """Return the activations of a batch (B, 3, H, W)."""
        ...

    def head(self, features: Features) -> Any:
        """Return the logits (B, n_classes) of activations."""
        ...


@dataclass(frozen=True)
class Activations:
    """The activations of a batch in float32 on the CPU.

    Attributes
    ----------
    positions
        (B, n, p).
    prefix
        (B, t, p) or None.
    logits
        (B, n_classes).
    grid
        Rows and columns of the n positions.
    """

    positions: np.ndarray
    prefix: np.ndarray | None
    logits: np.ndarray
    grid: tuple[int, int]

    def bad_images(self) -> dict[int, str]:
        """Return which images have values that are not finite, with ``"nan"`` or ``"inf"``."""
        parts = [part for part in (self.positions, self.prefix, self.logits) if part is not None and part.size]
        with np.errstate(over="ignore", invalid="ignore"):
            sums = sum(part.sum(axis=tuple(range(1, part.ndim))) for part in parts)
        suspects = np.flatnonzero(~np.isfinite(sums))
        return {int(row): kind for row in suspects if (kind := _kind([part[row] for part in parts]))}

    def select(self, rows: list[int]) -> Activations:
        """Return some of the images."""
        prefix = None if self.prefix is None else self.prefix[rows]
        return Activations(self.positions[rows], prefix, self.logits[rows], self.grid)


def _kind(parts: list[np.ndarray]) -> str | None:
    if any(np.isnan(part).any() for part in parts):
        return "nan"
    return "inf" if any(np.isinf(part).any() for part in parts) else None


class Engine:
    """Runs batches through a split model.

    Parameters
    ----------
    split_model
        Encoder, head, device, and the layer's name.
    batch_size
        Largest batch; halved for good when memory runs out.
    crops
        Where given, rows are crops and not positions.
    precision
        ``"float32"``, or ``"bfloat16"`` or ``"float16"`` for autocast. Results are float32.
    compiled
        Whether to pass the encoder through ``torch.compile``, which pays after some thousand images.
    output_fn
        Takes the logits out of what the model returns.

    Raises
    ------
    UserError
        The precision is unknown.
    """

    def __init__(
        self,
        split_model: Split,
        *,
        batch_size: int,
        crops: CropSpec | None = None,
        precision: str = "float32",
        compiled: bool = False,
        output_fn: Callable[[Any], torch.Tensor] | None = None,
    ) -> None:
        if precision not in PRECISIONS:
            raise UserError(f"precision must be one of {', '.join(PRECISIONS)}, not {precision!r}.")
        self._split = split_model
        self._encode = torch.compile(split_model.encode) if compiled else split_model.encode
        self._crops, self._precision, self._output_fn = crops, PRECISIONS[precision], output_fn
        self._convolutional = getattr(split_model.layer, "layout", None) == "NCHW"
        self._native: Callable[[torch.Tensor], Features] | None = None
        self.batch_size = batch_size
        self.layer = str(getattr(split_model.layer, "name", split_model.layer))

    def run(self, images: torch.Tensor) -> Activations:
        """Return the activations of images (B, 3, H, W), in halves where memory does not suffice.

        Raises
        ------
        UserError
            Not even one image fits into memory, or the model does not take the images.
        """
        try:
            return self._forward(images)
        except UserError:
            raise
        except (RuntimeError, AssertionError, ValueError, TypeError) as error:
            if not _is_out_of_memory(error) or len(images) == 1:
                raise self._refusal(error, images) from error
        _free_cache(images.device)
        half = (len(images) + 1) // 2
        self.batch_size = min(self.batch_size, half)
        logger.warning("out of memory with %d images at once: going on with %d", len(images), half)
        return _joined([self.run(part) for part in images.split(half)])

    def _refusal(self, error: Exception, images: torch.Tensor) -> UserError:
        """Return what to tell the user of an error in the forward pass."""
        if _is_out_of_memory(error):
            place = self._split.device
            return UserError(f"one image does not fit into the memory of {place}: take a smaller input or the CPU.")
        if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
            return UserError(f"torch.compile fails on this model ({_first_line(error)}): run it with compiled=False.")
        return UserError(
            f"the model does not take images of the size {tuple(images.shape[2:])} at the layer {self.layer!r} "
            f"({_first_line(error)}): pass its own input size in preprocess=."
        )

    def _forward(self, images: torch.Tensor) -> Activations:
        with torch.inference_mode(), self._autocast():
            images = images.to(self._split.device, non_blocking=True)
            if self._convolutional:
                images = images.contiguous(memory_format=torch.channels_last)
            features = self._encode(images)
            logits = tensor_of(self._split.head(features), output_fn=self._output_fn)
            if self._crops is not None:
                features = self._encode_crops(images)
            self._check(features, logits, len(images))
            return Activations(_host(features.positions), _host(features.prefix), _host(logits), features.grid)

    def _encode_crops(self, images: torch.Tensor) -> Features:
        """Return the mean activation of every crop, (B, n_crops, p), as features on the grid of crops."""
        spec = self._crops or CropSpec()
        height, width = images.shape[2:]
        grid, boxes = spec.boxes((height, width))
        crops = cut_crops(images, boxes, size=None if spec.native else (height, width))
        encode = self._encoder_of_crops((crops.shape[2], crops.shape[3]))
        pooled = [encode(part).positions.mean(dim=1) for part in crops.split(max(1, self.batch_size))]
        return Features(torch.cat(pooled).unflatten(0, (len(images), len(boxes))), None, grid)

    def _encoder_of_crops(self, size: tuple[int, int]) -> Callable[[torch.Tensor], Features]:
        """Return what encodes crops: for crops at their own size, the same model split anew for that size."""
        if self._native is None:
            from conceptatlas.extraction.split import SplitModel, split

            halves = self._split
            resplit = (self._crops or CropSpec()).native and isinstance(halves, SplitModel)
            self._native = split(halves.model, self.layer, input_size=size).encode if resplit else self._encode
        return self._native

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        if self._precision is None:
            return contextlib.nullcontext()
        return torch.autocast(self._split.device.type, dtype=self._precision)

    def _check(self, features: Features, logits: torch.Tensor, n_images: int) -> None:
        if len(features.positions) != n_images or len(logits) != n_images:
            raise LayerError(
                f"the layer {self.layer!r} gives {len(features.positions)} rows and {len(logits)} outputs for "
                f"{n_images} images: choose a layer that keeps one row per image."
            )


def _host(values: torch.Tensor | None) -> Any:
    return None if values is None else values.float().cpu().numpy()


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0] or type(error).__name__


def _is_out_of_memory(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in text or "can't allocate memory" in text


def _free_cache(device: torch.device) -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _joined(parts: list[Activations]) -> Activations:
    prefix = (
        None if parts[0].prefix is None else np.concatenate([part.prefix for part in parts if part.prefix is not None])
    )
    positions = np.concatenate([part.positions for part in parts])
    return Activations(positions, prefix, np.concatenate([part.logits for part in parts]), parts[0].grid)
