"""Models by name or as modules: building them, what identifies them, and the logits in what they return."""

from __future__ import annotations

import difflib
import hashlib
import logging
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from conceptatlas.extraction.checkpoints import load_weights, read_checkpoint
from conceptatlas.extraction.errors import CheckpointError, UserError
from conceptatlas.extraction.pairs import as_pair
from conceptatlas.extraction.tracing import logits_in

logger = logging.getLogger(__name__)

_HUB_PREFIXES = ("hf-hub:", "hf_hub:", "local-dir:")


def load_model(
    model: nn.Module | str | tuple[Callable[..., Any], Callable[..., Any]],
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    num_classes: int | None = None,
    pretrained: bool | None = None,
) -> nn.Module:
    """Return a model, with its weights.

    Parameters
    ----------
    model
        A module (returned itself, its mode untouched), a pair of callables ``(encoder, head)``, a timm name, a
        torchvision name, or either with the prefix ``timm/`` or ``torchvision/``. A name that both know is timm's,
        unless only torchvision's fits `checkpoint`.
    checkpoint
        Safetensors, or a torch file that holds weights only. Keys may carry wrappers (``model``, ``state_dict``) and
        prefixes (``module.``). Half-precision weights are cast to the model's type. The fit is strict.
    num_classes
        Size of the last layer; taken from the checkpoint where it differs from the architecture's default.
    pretrained
        False builds a named model without weights, for a look at its layers. Else a name without a checkpoint gets its
        published weights.

    Returns
    -------
    torch.nn.Module
        In eval mode where it was built here.

    Raises
    ------
    UserError
        The name is unknown (near matches are listed), or `num_classes` is 0 or not that of the published weights.
    CheckpointError
        The checkpoint is missing, unsafe, torn or does not fit, or published weights cannot be fetched.

    Examples
    --------
    >>> load_model("test_resnet", pretrained=False, num_classes=3).num_classes
    3
    """
    if num_classes is not None and num_classes < 1:
        raise UserError(f"num_classes={num_classes} leaves no class to explain: give 1 or more.")
    weights = read_checkpoint(checkpoint) if checkpoint is not None else None
    if isinstance(model, (tuple, list)):
        model = as_pair(model)
    if isinstance(model, nn.Module):
        return model if weights is None else load_weights(model, weights, str(checkpoint))
    if not isinstance(model, str):
        raise UserError(
            "model must be a torch module, a pair of callables (encoder, head), or a timm or torchvision name, not "
            f"{type(model).__name__}."
        )
    if weights is None:
        return _build(model, _libraries(model)[0], num_classes, pretrained=pretrained is not False).eval()
    return _build_for(model, weights, str(checkpoint), num_classes).eval()


def _build_for(name: str, weights: dict[str, torch.Tensor], path: str, num_classes: int | None) -> nn.Module:
    """Return the first library's model of that name that the weights fit, with them loaded."""
    first_error: CheckpointError | None = None
    for library in _libraries(name):
        skeleton = _build(name, library, num_classes, pretrained=False)
        found = _classes_in(weights, skeleton) if num_classes is None else None
        model = skeleton if found is None else _build(name, library, found, pretrained=False)
        try:
            return load_weights(model, weights, path)
        except CheckpointError as error:
            first_error = first_error or error
    raise first_error or CheckpointError(f"{path!r} does not fit {name!r}.")


def _libraries(name: str) -> list[str]:
    """Return which of timm and torchvision know a name; raises UserError with near matches where none does."""
    if name.startswith(_HUB_PREFIXES):
        return ["timm"]
    import timm
    import torchvision

    prefix, _, bare = name.rpartition("/")
    architecture = bare.split(".")[0]
    found = ["timm"] if prefix in ("", "timm") and timm.is_model(architecture) else []
    known_to_torchvision = torchvision.models.list_models(module=torchvision.models)
    if prefix in ("", "torchvision") and bare in known_to_torchvision:
        found.append("torchvision")
    if not found:
        near = difflib.get_close_matches(architecture, [*timm.list_models(), *known_to_torchvision], n=3, cutoff=0.6)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else "see timm.list_models()."
        raise UserError(f"neither timm nor torchvision has a model {name!r}: {hint}")
    return found


def _build(name: str, library: str, num_classes: int | None, *, pretrained: bool) -> nn.Module:
    options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    if library == "torchvision":
        return _build_torchvision(name.removeprefix("torchvision/"), options, pretrained=pretrained)
    import timm

    if pretrained and num_classes is not None and not name.startswith(_HUB_PREFIXES):
        published = timm.get_pretrained_cfg(name.removeprefix("timm/"))
        _check_published(name, num_classes, published.num_classes if published is not None else num_classes)
    try:
        return timm.create_model(name.removeprefix("timm/"), pretrained=pretrained, **options)
    except RuntimeError as error:
        if "pretrained tag" not in str(error).lower() and "pretrained weights" not in str(error).lower():
            raise
        architecture = name.removeprefix("timm/").split(".")[0]
        tags = ", ".join(timm.list_models(f"{architecture}.*", pretrained=True)[:5]) or "none"
        raise CheckpointError(f"timm has no weights {name!r} (it has: {tags}); pass checkpoint=PATH.") from error
    except OSError as error:
        raise _not_fetched(name, error) from error


def _build_torchvision(name: str, options: dict[str, Any], *, pretrained: bool) -> nn.Module:
    import torchvision

    from conceptatlas.extraction.transforms import as_preprocess

    published = torchvision.models.get_model_weights(name).DEFAULT
    if pretrained:
        categories = len(published.meta["categories"])
        _check_published(name, options.get("num_classes", categories), categories)
    elif name in ("googlenet", "inception_v3"):
        options = {"init_weights": False, **options}  # else they take minutes, and warn
    try:
        model = torchvision.models.get_model(name, weights=published if pretrained else None, **options)
    except OSError as error:
        raise _not_fetched(name, error) from error
    model.preprocess = as_preprocess(published.transforms())  # type: ignore[assignment]
    return model


def _check_published(name: str, asked: int, published: int) -> None:
    """Raise UserError where published weights would get a last layer of random numbers."""
    if asked != published:
        raise UserError(
            f"the published weights of {name!r} have {published} classes, not {asked}: pass checkpoint=PATH with "
            "weights for your classes, or leave out num_classes."
        )


def _not_fetched(name: str, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"the published weights of {name!r} could not be fetched ({type(error).__name__}): "
        "connect to the network, or pass checkpoint=PATH."
    )


def _classes_in(weights: dict[str, torch.Tensor], model: nn.Module) -> int | None:
    """Return the number of classes of a checkpoint's last layer, where it differs from the model's."""
    state = model.state_dict()
    for key in _classifier_keys(model):
        if key in weights and key in state and weights[key].shape[:1] != state[key].shape[:1]:
            return int(weights[key].shape[0])
    return None


def _classifier_keys(model: nn.Module) -> list[str]:
    """Return the names of the weights and biases of the layers that make the logits."""
    named = getattr(model, "pretrained_cfg", {}).get("classifier")
    if named:
        layers = [named] if isinstance(named, str) else list(named)
        return [f"{layer}.{part}" for layer in layers for part in ("weight", "bias")]
    linear = [name for name, module in model.named_modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    return [f"{linear[-1]}.weight"] if linear else []


def model_id(model: nn.Module) -> str:
    """Return what a record calls the model: timm's architecture, else the class.

    >>> model_id(nn.Identity())
    'torch.nn.modules.linear.Identity'
    """
    config = getattr(model, "pretrained_cfg", None) or {}
    kind = type(model)
    return config.get("architecture") or f"{kind.__module__}.{kind.__qualname__}"


def weight_digest(model: nn.Module) -> str:
    """Return the hexadecimal SHA-256 of all parameters and buffers, by name, type, shape and bytes.

    >>> weight_digest(nn.ReLU())[:8]
    'e3b0c442'
    """
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name}|{value.dtype}|{tuple(value.shape)}|".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def check_class_head(model: nn.Module) -> None:
    """Raise UserError where a model was built without a classifier (``num_classes=0``).

    >>> check_class_head(nn.Linear(2, 3))
    """
    if getattr(model, "num_classes", None) == 0:
        raise UserError(
            f"{model_id(model)} was built with num_classes=0, so it has no classes: build it with its head."
        )


def choose_device(device: str | torch.device | None = "auto") -> torch.device:
    """Return the device by that name; ``"auto"`` takes CUDA, then MPS, then the CPU.

    Raises
    ------
    UserError
        The device is unknown or not there.

    Examples
    --------
    >>> choose_device("cpu")
    device(type='cpu')
    """
    if device in (None, "auto"):
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)  # type: ignore[arg-type]
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"the device {str(device)!r} cannot be used ({reason}): try device='auto'.") from error
    return chosen


def tensor_of(output: object, *, output_fn: Any = None) -> torch.Tensor:
    """Return the logits (B, n_classes) in what a model returned.

    Parameters
    ----------
    output
        A tensor, a tuple or list that begins with one, a dictionary or an object with ``logits`` (or one tensor only).
    output_fn
        The user's way from the output to the logits, asked first.

    Raises
    ------
    UserError
        No logits can be found, or they have no class axis.

    Examples
    --------
    >>> tensor_of({"logits": torch.zeros(2, 5)}).shape
    torch.Size([2, 5])
    """
    found = output_fn(output) if output_fn is not None else _logits_in(output)
    if not isinstance(found, torch.Tensor):
        raise UserError(f"the model returns {_describe(output)}: pass output_fn=, which takes the logits out of it.")
    if found.ndim == 1:
        found = found[:, None]
    if found.ndim != 2 or found.shape[1] == 0:
        raise UserError(
            f"the model returns a tensor {tuple(found.shape)}, not logits (batch, classes): pass output_fn=."
        )
    return found


def _logits_in(output: object) -> object:
    found = logits_in(output)
    return found[0] if isinstance(found, (tuple, list)) and found else found


def _describe(output: object) -> str:
    kind = type(output).__name__
    return f"{kind} with {', '.join(map(str, output))}" if isinstance(output, dict) else kind
