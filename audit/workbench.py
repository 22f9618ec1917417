"""A finished run opened again with its model: what interventions and further measurements need."""

from __future__ import annotations

from typing import Any

from torch import nn

from conceptatlas.audit.atlas import Atlas
from conceptatlas.audit.context import Context, Settings
from conceptatlas.extraction import ActivationStore, Preprocess, load_model, split, weight_digest
from conceptatlas.extraction.errors import UserError


def reopen(atlas: Atlas, model: nn.Module | str, *, checkpoint: Any = None, device: str = "cpu") -> Context:
    """Return the run's context: its stored activations and the model, cut at the layer of the atlas.

    No image is read. The images' tables come from the atlas.

    Raises
    ------
    UserError
        Where the model is not the one that was audited, or the run holds no activations.
    """
    net = load_model(model, checkpoint=checkpoint)
    digest, audited = weight_digest(net), atlas.run["model"]["weights"]
    if digest != audited:
        raise UserError(
            f"this model's weights ({digest[:12]}) are not the ones of the atlas ({audited[:12]}); "
            "give the model that was audited"
        )
    folder = atlas.path / "activations"
    if not folder.is_dir():
        raise UserError(f"{str(atlas.path)!r} holds no activations (it is a copy); open the run that `audit` wrote")
    size = atlas.run["preprocess"].get("size")
    kept = atlas.run["settings"]
    settings = Settings(**{**kept, "candidates": tuple(kept["candidates"])})
    return Context(
        split=split(net.to(device), atlas.run["layer"]["name"], input_size=tuple(size) if size else None),
        store=ActivationStore(folder),
        source=None,
        preprocess=Preprocess.from_dict(atlas.run["preprocess"]) if size else None,
        images=atlas.images,
        class_names=list(atlas.run["class_names"]),
        run_dir=atlas.path,
        settings=settings,
        map_method=atlas.run.get("map"),
    )
