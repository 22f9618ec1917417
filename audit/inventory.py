"""What is odd about a folder of images: class folders that are empty, and files that are there twice."""

from __future__ import annotations

import logging
from typing import Any

from conceptatlas.extraction import duplicate_files

logger = logging.getLogger(__name__)

MOST_GROUPS = 100


def empty_folders(source: Any) -> list[str]:
    """Return the class folders of a source that hold no image; none for a source that has no folders.

    >>> from types import SimpleNamespace
    >>> empty_folders(SimpleNamespace(class_counts={"ants": 3, "bees": 0}))
    ['bees']
    """
    return [name for name, count in getattr(source, "class_counts", {}).items() if count == 0]


def inventory(source: Any) -> dict[str, Any]:
    """Return what ``run.json`` says of the files, and log it once where something is odd.

    ``empty_folders``: their names. ``duplicates``: groups of sample ids whose files have equal bytes (the first 100
    groups), ``n_duplicates`` how many groups there are, and ``n_duplicates_across_labels`` how many of them lie in
    folders of different classes: such images count for both, and one of their labels is wrong.
    """
    number = {path: index for index, path in enumerate(getattr(source, "paths", None) or []) if path is not None}
    members = [[number[path] for path in group] for group in duplicate_files(number)]
    across = sum(len({source.labels[i] for i in group}) > 1 for group in members)
    empty = empty_folders(source)
    if empty:
        logger.warning("%d class folders hold no image: %s", len(empty), ", ".join(empty[:10]))
    if members:
        logger.warning(
            "%d groups of files have equal content, %d of them under different labels (run.json lists them)",
            len(members),
            across,
        )
    return {
        "empty_folders": empty,
        "n_duplicates": len(members),
        "n_duplicates_across_labels": across,
        "duplicates": [[str(source.ids[i]) for i in group] for group in members[:MOST_GROUPS]],
    }
