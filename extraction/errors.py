"""Errors that speak to the person who gave the input: what was wrong, with the value, and what to do."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake in what the user gave: one sentence that says what to do; the command line exits with 2."""


class LayerError(UserError):
    """A layer that the model does not have, or where it cannot be cut."""


class CheckpointError(UserError):
    """A checkpoint that is missing, unsafe, torn or does not fit the model."""


class SourceError(UserError):
    """A set of images that is missing, empty or fails too often."""


class StoreError(UserError):
    """An activation store that is torn, tampered with, in use, or belongs to another run."""


class ImageError(Exception):
    """One image that cannot be used. `cause` is a short code (``truncated``, ``bomb``, ``unsupported``, ...)."""

    def __init__(self, path: str, cause: str, detail: str = "") -> None:
        self.path = path
        self.cause = cause
        self.detail = detail
        super().__init__(f"{path}: {cause}" + (f" ({detail})" if detail else ""))

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, str, str]]:
        """Pickle by the three parts, so that the error crosses a DataLoader worker's queue."""
        return (ImageError, (self.path, self.cause, self.detail))
