"""Weights from files, without running what is in them, and their strict fit to a model."""

from __future__ import annotations

import argparse
import logging
import os
import pickle
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from conceptatlas.extraction.errors import CheckpointError

logger = logging.getLogger(__name__)

_WRAPPERS = ("state_dict", "model", "model_state_dict", "state_dict_ema", "model_ema", "module")
_PREFIXES = ("module.", "_orig_mod.", "model.")
_OPTIONAL = ("num_batches_tracked",)  # counters that older torch versions did not write


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """Return the weights in a file by name, on the CPU. No code in the file is run.

    Parameters
    ----------
    path
        A safetensors file, or a torch file that holds weights alone.

    Raises
    ------
    CheckpointError
        The file is missing, torn, holds anything else than weights, or would run code.

    Examples
    --------
    >>> read_checkpoint("nowhere.pt")
    Traceback (most recent call last):
    conceptatlas.extraction.errors.CheckpointError: there is no checkpoint 'nowhere.pt': check the path.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"there is no checkpoint {str(path)!r}: check the path.")
    if not path.is_file():
        raise CheckpointError(f"the checkpoint {str(path)!r} is not a file: give the file with the weights.")
    content = _read_safetensors(path) if _looks_like_safetensors(path) else _read_torch(path)
    return _bare_names(_unwrap(content, path))


def _looks_like_safetensors(path: Path) -> bool:
    if path.suffix == ".safetensors":
        return True
    with path.open("rb") as file:
        return file.read(9)[8:] == b"{"


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"the checkpoint {str(path)!r} is not whole ({error}): fetch or write it again."
        ) from error


def _read_torch(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # remarks on old pickle protocols
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if b"\x80" in path.read_bytes()[:2] or path.read_bytes()[:2] == b"PK":
            raise CheckpointError(
                f"the checkpoint {str(path)!r} is refused: it holds Python objects, which could run code; "
                "save model.state_dict() alone, best as safetensors."
            ) from error
        raise CheckpointError(f"{str(path)!r} is not a checkpoint: give safetensors or a torch file.") from error
    except Exception as error:  # torch's reader of weights raises anything on a torn file
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"the checkpoint {str(path)!r} is not whole ({reason}): fetch or write it again."
        ) from error


def _unwrap(content: Any, path: Path) -> dict[str, torch.Tensor]:
    """Return the dictionary of weights inside customary wrappers."""
    while isinstance(content, Mapping):
        if content and all(isinstance(value, torch.Tensor) for value in content.values()):
            return dict(content)
        inner = next((content[key] for key in _WRAPPERS if isinstance(content.get(key), Mapping)), None)
        if inner is None:
            break
        content = inner
    kind = (
        f"a dictionary with {', '.join(map(str, list(content)[:3]))}" if isinstance(content, Mapping) else type(content)
    )
    raise CheckpointError(f"the checkpoint {str(path)!r} holds {kind}, not weights: save model.state_dict().")


def _bare_names(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Take off the prefixes that data-parallel training, compilation and Lightning put before every name."""
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in weights):
            return _bare_names({name.removeprefix(prefix): value for name, value in weights.items()})
    return weights


def load_weights(model: nn.Module, weights: Mapping[str, torch.Tensor], path: str = "checkpoint") -> nn.Module:
    """Load weights into a model, strictly, cast to the model's types, and return the model.

    Weights in a published layout are first translated by the model's own timm module where they do not fit as they are.

    Raises
    ------
    CheckpointError
        A weight is missing, unknown or of another shape. The model is unchanged then.

    Examples
    --------
    >>> load_weights(nn.Linear(2, 1), {"weight": torch.ones(1, 2)})
    Traceback (most recent call last):
    conceptatlas.extraction.errors.CheckpointError: 'checkpoint' does not fit Linear: missing bias.
    """
    misfit = first_misfit(model, weights)
    if misfit:
        translated = _translated(model, weights)
        if translated is None or first_misfit(model, translated):
            raise CheckpointError(f"{path!r} does not fit {type(model).__name__}: {misfit}.")
        weights = translated
    model.load_state_dict(dict(weights), strict=False)
    return model


def first_misfit(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> str:
    """Return how weights differ from what a model needs, the first names of each kind; empty where they fit.

    >>> first_misfit(nn.Linear(2, 1), {"weight": torch.ones(3, 2), "scale": torch.ones(1)})
    'missing bias; unexpected scale; weight is (3, 2) instead of (1, 2)'
    """
    state = model.state_dict()
    missing = [name for name in state if name not in weights and not name.endswith(_OPTIONAL)]
    unexpected = [name for name in weights if name not in state and not name.endswith(_OPTIONAL)]
    reshaped = [
        f"{name} is {tuple(weights[name].shape)} instead of {tuple(value.shape)}"
        for name, value in state.items()
        if name in weights and weights[name].shape != value.shape
    ]
    parts = [("missing ", missing), ("unexpected ", unexpected), ("", reshaped)]
    return "; ".join(lead + _first_names(names) for lead, names in parts if names)


def _first_names(names: list[str], shown: int = 3) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def _translated(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor] | None:
    """Return the weights as the model's own timm module translates a published layout, or None."""
    translate = getattr(sys.modules.get(type(model).__module__), "checkpoint_filter_fn", None)
    if translate is None:
        return None
    try:
        return dict(translate(dict(weights), model))
    except Exception as error:  # foreign code on weights that may belong to another model
        logger.debug("checkpoint_filter_fn of %s: %s", type(model).__module__, error)
        return None
