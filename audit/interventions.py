"""Interventions: the model with a concept taken out, as a plain module, and what that does to its groups.

An intervention is a diagnosis first. It is called a fix only where the worst group got better beyond its interval.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from conceptatlas.audit.coefficients import top_mean
from conceptatlas.audit.context import Context
from conceptatlas.audit.statistics import wilson
from conceptatlas.audit.wide import ImageWide, no_properties
from conceptatlas.concepts import nnls
from conceptatlas.extraction import Features, SplitModel, split
from conceptatlas.extraction.errors import UserError

EditMethod = Literal["mean", "zero", "remove", "project", "clamp"]


class EditedModel(nn.Module):
    """A classifier in which some concepts are edited at one layer; takes images, returns logits.

    Parameters
    ----------
    split_model
        The classifier, cut at the layer of the concepts.
    directions
        (k, p) directions of all concepts of the class.
    concepts
        Rows of the concepts that are edited.
    method
        ``"mean"``: each position's coefficient is set to `reference`, the part that no concept explains is kept;
        ``"zero"``: it is set to 0; ``"remove"``: in images that hold the concept what exceeds `reference` is taken
        off, and nothing is added where there is less (``"mean"`` gives every image of every class the concept's
        mean at every position); ``"project"``: the directions are projected out; ``"clamp"``: the positive part of the
        concepts' contribution is taken off the target class's logit (Neuhaus et al., "Spurious Features Everywhere",
        ICCV 2023).
    reference
        (k,) mean coefficients over a probe set, for ``"mean"`` and ``"remove"``.
    thresholds
        (k,) scores from which on an image holds a concept, for ``"remove"`` (`ClassAtlas.thresholds`); by default what
        exceeds `reference` is taken off all images.
    target
        Class index, for ``"clamp"``.
    wide
        Which of the concepts, the last ones, are properties of whole images (`wide_of` a bank): they are edited by as
        much as the whole image has of them, alike at every position.
    """

    def __init__(
        self,
        split_model: SplitModel,
        directions: torch.Tensor,
        concepts: Sequence[int],
        *,
        method: EditMethod = "mean",
        reference: torch.Tensor | None = None,
        thresholds: torch.Tensor | None = None,
        target: int | None = None,
        wide: ImageWide | None = None,
    ) -> None:
        super().__init__()
        if method not in get_args(EditMethod):
            raise UserError(f"edit method must be one of {', '.join(get_args(EditMethod))}, not {method!r}")
        if method == "clamp" and target is None:
            raise UserError("method 'clamp' takes the concept off one class's logit: give target=class index")
        if method in ("mean", "remove") and reference is None:
            raise UserError(f"method {method!r} needs reference=, the mean coefficients over a probe set")
        self.model = split_model.model
        self.method, self.target, self.layer = method, target, split_model.layer.name
        self.input_size = tuple(split_model.input_size)
        self.concepts = [int(c) for c in concepts]
        self.register_buffer("directions", directions.detach().clone().float())
        zeros = torch.zeros(len(directions))
        self.register_buffer("reference", (zeros if reference is None else reference).detach().clone().float())
        self.register_buffer("thresholds", (zeros if thresholds is None else thresholds).detach().clone().float())
        wide = no_properties(directions.shape[1]) if wide is None else wide
        for name, values in (("readouts", wide.readouts), ("offsets", wide.offsets)):
            self.register_buffer(name, torch.as_tensor(values).float())
        if len(wide):
            self.reference[-len(wide) :] = torch.as_tensor(wide.reference).float()
        self._split = split_model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (B, n_classes) for normalised images (B, 3, H, W)."""
        return self.head(self._split.encode(images))

    def head(self, features: Features) -> torch.Tensor:
        """Return logits for activations at the layer."""
        if self.method == "clamp":
            return self._clamped(features)
        return self._split.head(features.replace(positions=self._edited(features.positions)))

    def _edited(self, positions: torch.Tensor) -> torch.Tensor:
        chosen = self.directions[self.concepts].to(positions)
        if self.method == "project":
            basis, _ = torch.linalg.qr(chosen.T)
            return positions - (positions @ basis) @ basis.T
        u = self._coefficients(positions)[..., self.concepts]
        excess = u if self.method == "zero" else u - self.reference[self.concepts].to(positions)
        if self.method == "remove":
            held = top_mean(u) >= self.thresholds[self.concepts].to(positions)
            excess = excess.clamp(min=0) * held[:, None]
        return positions - excess @ chosen

    def _coefficients(self, positions: torch.Tensor) -> torch.Tensor:
        flat = positions.reshape(-1, positions.shape[-1])
        u = nnls(flat, self.directions.to(positions)).reshape(*positions.shape[:-1], -1)
        readouts, offsets = (torch.as_tensor(part).to(positions) for part in (self.readouts, self.offsets))
        if len(readouts):
            u[..., -len(readouts) :] = (positions.mean(-2, keepdim=True) @ readouts.T + offsets).clamp(min=0)
        return u

    def _clamped(self, features: Features) -> torch.Tensor:
        logits = self._split.head(features)
        u = self._coefficients(features.positions)[..., self.concepts].detach()
        with torch.enable_grad():
            positions = features.positions.detach().requires_grad_()
            score = self._split.head(features.replace(positions=positions))[:, self.target].sum()
            (slope,) = torch.autograd.grad(score, positions)
        part = ((slope @ self.directions[self.concepts].to(positions).T) * u).sum(dim=1)
        taken = torch.zeros_like(logits)
        taken[:, self.target] = part.clamp(min=0).sum(1)
        return logits - taken

    def save(self, path: str | Path) -> Path:
        """Write weights and edit as one safetensors file; `load_edited` reads it back with the same architecture."""
        head = {
            "schema": 1, "method": self.method, "target": self.target, "layer": self.layer,
            "concepts": self.concepts, "input_size": list(self.input_size),
        }  # fmt: skip
        tensors = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        save_file(tensors, path, metadata={"conceptatlas": json.dumps(head)})
        return Path(path)


def load_edited(path: str | Path, model: nn.Module) -> EditedModel:
    """Return an edited model from its file; `model` gives the architecture, its weights are overwritten.

    Raises
    ------
    UserError
        Where the file is not one that `EditedModel.save` wrote, or does not fit the architecture.
    """
    try:
        with safe_open(str(path), framework="pt") as stored:
            head = json.loads((stored.metadata() or {})["conceptatlas"])
            state = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise UserError(f"{str(path)!r} is not an edited model written by conceptatlas ({error})") from None
    state.setdefault("thresholds", torch.zeros(len(state["directions"])))  # files that are older than they are
    cut = split(model, head["layer"], input_size=tuple(head["input_size"]))
    edited = EditedModel(
        cut,
        state["directions"],
        head["concepts"],
        method=head["method"],
        reference=state["reference"],
        target=head["target"],
        wide=_kept_wide(state),
    )
    try:
        edited.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(
            f"{str(path)!r} does not fit this architecture: {str(error).splitlines()[-1].strip()}"
        ) from None
    return edited.eval()


def _kept_wide(state: dict[str, torch.Tensor]) -> ImageWide | None:
    """Return the properties of whole images that a file holds; None where it has none, or is older than they are."""
    count = len(state.get("readouts", ()))
    state.setdefault("readouts", torch.zeros(0, state["directions"].shape[1]))
    state.setdefault("offsets", torch.zeros(0))
    if not count:
        return None
    directions, reference = state["directions"][-count:].numpy(), state["reference"][-count:].numpy()
    readouts, offsets = state["readouts"].numpy(), state["offsets"].numpy()
    return ImageWide(directions, readouts, offsets, reference, ("",) * count, np.full(count, np.nan))


@dataclass(frozen=True)
class BeforeAfter:
    """Accuracy before and after an intervention, group by group.

    Attributes
    ----------
    groups
        One row per group: ``group, n, before, before_low, before_high, after, after_low, after_high``.
    average_before, average_after
        Accuracy over all images.
    worst_before, worst_after
        Accuracy of the worst group before, and of the worst group after.
    flips
        Share of the images whose prediction changed.
    improved
        Whether the worst group after is better than the worst group before beyond its 95 % interval.
    """

    groups: pd.DataFrame
    average_before: float
    average_after: float
    worst_before: float
    worst_after: float
    flips: float
    improved: bool

    def to_frame(self) -> pd.DataFrame:
        """Return the groups' table."""
        return self.groups

    def _repr_html_(self) -> str:
        verdict = "the worst group improved" if self.improved else "the worst group did not improve: this is no fix"
        average = f"Average {self.average_before:.3f} → {self.average_after:.3f}"
        worst = f"worst group {self.worst_before:.3f} → {self.worst_after:.3f}"
        head = f"<p>{average}; {worst}; {verdict}.</p>"
        return head + self.groups.to_html(index=False, float_format=lambda v: f"{v:.3f}")


def before_after(
    before: np.ndarray, after: np.ndarray, labels: np.ndarray, groups: Sequence[str], *, min_group: int = 5
) -> BeforeAfter:
    """Compare predictions before and after, over groups of images.

    Parameters
    ----------
    before, after
        (n,) predicted class indices.
    labels
        (n,) true class indices.
    groups
        (n,) name of each image's group, for example ``"bee, with concept 3"``.
    min_group
        Smaller groups are listed but never the worst.
    """
    frame = pd.DataFrame({"group": list(groups), "before": before == labels, "after": after == labels})
    rows = []
    for name, part in frame.groupby("group", sort=True):
        n = len(part)
        row: dict[str, object] = {"group": name, "n": n}
        for when in ("before", "after"):
            low, high = wilson(part[when].sum(), n)
            row |= {when: part[when].mean(), f"{when}_low": low, f"{when}_high": high}
        rows.append(row)
    table = pd.DataFrame(rows)
    counted = table[table["n"] >= min_group] if (table["n"] >= min_group).any() else table
    worst_before = counted.loc[counted["before"].idxmin()]
    worst_after = counted.loc[counted["after"].idxmin()]
    return BeforeAfter(
        groups=table,
        average_before=float(frame["before"].mean()),
        average_after=float(frame["after"].mean()),
        worst_before=float(worst_before["before"]),
        worst_after=float(worst_after["after"]),
        flips=float((np.asarray(before) != np.asarray(after)).mean()),
        improved=bool(worst_after["after_low"] > worst_before["before"]),
    )


def predictions(context: Context, head: nn.Module | SplitModel, rows: np.ndarray) -> np.ndarray:
    """Return predicted class indices of stored images, by a head that takes activations at the run's layer."""
    found = []
    with torch.no_grad():
        for _, features in context.blocks(rows):
            logits = head.head(features) if hasattr(head, "head") else head(features)
            found.append(logits.argmax(1).cpu().numpy())
    return np.concatenate(found) if found else np.zeros(0, dtype=int)


def concept_groups(labels: Sequence[object], present: np.ndarray) -> list[str]:
    """Return the name of each image's group: its label, with or without the concept.

    >>> concept_groups(["bee", "ant"], np.array([True, False]))
    ['bee, with', 'ant, without']
    """
    return [f"{label}, {'with' if held else 'without'}" for label, held in zip(labels, present, strict=True)]
