"""The tables of a whole run: what is known of each image, and which classes are fitted and why not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from conceptatlas.audit import storage
from conceptatlas.audit.inventory import empty_folders
from conceptatlas.audit.request import Subject
from conceptatlas.extraction import (
    ActivationStore,
    ExtractionResult,
    class_synonyms_of,
    match_labels,
)
from conceptatlas.extraction.errors import UserError


def image_table(subject: Subject, result: ExtractionResult, labels: Mapping[str, str | int] | None) -> pd.DataFrame:
    """Return one row per image that was used: id, label, prediction, probability, and whether it is right."""
    probability, predicted = _predictions(result.store)
    position = {str(s): i for i, s in enumerate(subject.source.ids)}
    source_index = np.array([position[str(s)] for s in result.store.sample_ids], dtype=int)
    given = [subject.source.labels[i] for i in source_index]
    label_index = _label_indices(subject, given, labels)
    correct = np.where(np.isnan(label_index), np.nan, (label_index == predicted).astype(float))
    return pd.DataFrame(
        {
            "sample_id": [str(s) for s in result.store.sample_ids],
            "source_index": source_index,
            "label": [None if g is None else str(g) for g in given],
            "label_index": label_index,
            "predicted": [subject.class_names[i] for i in predicted.tolist()],
            "predicted_index": predicted,
            "probability": probability,
            "correct": correct,
        }
    )


def _predictions(store: ActivationStore) -> tuple[np.ndarray, np.ndarray]:
    """Return the probability of the predicted class, and its index, of every sample, read in blocks."""
    probabilities, indices = [np.zeros(0, np.float32)], [np.zeros(0, np.int64)]
    for block in store.logit_blocks():
        logits = torch.as_tensor(block)
        if logits.shape[1] == 1:
            probability, predicted = torch.sigmoid(logits[:, 0]), torch.zeros(len(logits), dtype=torch.long)
        else:
            probability, predicted = torch.softmax(logits, 1).max(1)
        probabilities.append(probability.numpy())
        indices.append(predicted.numpy())
    return np.concatenate(probabilities), np.concatenate(indices)


def _label_indices(subject: Subject, given: list[Any], labels: Mapping[str, str | int] | None) -> np.ndarray:
    """Return the class index of each image's label, NaN where it has none that the model knows."""
    if any(isinstance(g, (int, np.integer)) and not isinstance(g, bool) for g in given) and not labels:
        inside = [g if g is not None and 0 <= int(g) < len(subject.class_names) else None for g in given]
        return np.array([np.nan if g is None else float(g) for g in inside])
    folders = sorted({str(g) for g in given if g is not None})
    synonyms = class_synonyms_of(subject.split.model, len(subject.class_names))
    matched = match_labels(folders, subject.class_names, synonyms=synonyms, mapping=dict(labels) if labels else None)
    indices = [None if g is None else matched.get(str(g)) for g in given]
    return np.array([np.nan if i is None else float(i) for i in indices])


def empty_classes(subject: Subject, labels: Mapping[str, str | int] | None) -> set[int]:
    """Return the classes whose folders hold no image."""
    folders = empty_folders(subject.source)
    if not folders:
        return set()
    synonyms = class_synonyms_of(subject.split.model, len(subject.class_names))
    mapping = {str(k): v for k, v in labels.items() if str(k) in folders} if labels else None
    found = match_labels(folders, subject.class_names, synonyms=synonyms, mapping=mapping)
    return {index for index in found.values() if index is not None}


def class_listing(
    images: pd.DataFrame,
    class_names: list[str],
    min_images: int,
    wanted: Sequence[str | int] | None,
    empty: AbstractSet[int] = frozenset(),
) -> pd.DataFrame:
    """Return one row per class that is predicted, labelled, asked for or has an empty folder: whether it is fitted.

    Raises
    ------
    UserError
        Where an asked-for class is none of the model's.
    """
    chosen = None if wanted is None else {_class_index(c, class_names) for c in wanted}
    predicted = images["predicted_index"].value_counts()
    labelled = set(images["label_index"].dropna().astype(int))
    rows = []
    for index in sorted(set(predicted.index) | labelled | (chosen or set()) | set(empty)):
        n = int(predicted.get(index, 0))
        reason = None
        if chosen is not None and index not in chosen:
            reason = "not asked for"
        elif n < min_images:
            reason = f"{n} image{' is' if n == 1 else 's are'} predicted as it, {min_images} are needed"
        name = class_names[index]
        rows.append((int(index), name, n, reason is None, reason or "", storage.slug_of(int(index), name)))
    listing = pd.DataFrame(rows, columns=["index", "name", "n_images", "fitted", "reason", "slug"])
    return listing.sort_values(["fitted", "n_images", "index"], ascending=[False, False, True], ignore_index=True)


def _class_index(wanted: str | int, class_names: list[str]) -> int:
    if isinstance(wanted, (int, np.integer)) and not isinstance(wanted, bool):
        if 0 <= wanted < len(class_names):
            return int(wanted)
        raise UserError(f"class index {wanted} is out of range: the model has {len(class_names)} classes")
    if wanted in class_names:
        return class_names.index(wanted)
    from difflib import get_close_matches

    near = ", ".join(get_close_matches(str(wanted), class_names, n=3, cutoff=0.4)) or ", ".join(class_names[:5])
    raise UserError(f"the model has no class {wanted!r}; the nearest names are: {near}")


def write_tables(
    run_dir: Path, table: pd.DataFrame, result: ExtractionResult, listing: pd.DataFrame, shortcuts: pd.DataFrame
) -> None:
    """Write the tables of a run to its folder."""
    skipped = pd.DataFrame(
        [asdict(s) for s in result.skipped], columns=["sample_id", "path", "cause", "error", "stage"]
    )
    storage.write_table(run_dir, "images", table)
    storage.write_table(run_dir, "skipped", skipped.astype(str))
    storage.write_table(run_dir, "classes", listing)
    storage.write_table(run_dir, "shortcuts", shortcuts)
