"""A person's titles, tags and notes, from one run into the next."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from conceptatlas.concepts import ConceptBank
from conceptatlas.extraction.errors import UserError

if TYPE_CHECKING:
    from conceptatlas.audit.atlas import Atlas

_LOG = logging.getLogger(__name__)
EARLIER = "earlier"


def set_aside(run_dir: Path) -> None:
    """Keep the concepts of a run that is about to be done afresh, where a person has judged any of them."""
    folders = sorted((run_dir / "concepts").glob("*/bank"))
    if any(record.judged for bank in map(_readable, folders) if bank is not None for record in bank.concepts):
        shutil.rmtree(run_dir / EARLIER, ignore_errors=True)
        (run_dir / "concepts").replace(run_dir / EARLIER)


def restore(atlas: Atlas) -> Atlas:
    """Write the judgements that `set_aside` kept to the same concepts of the new run, and return its atlas."""
    root = atlas.path / EARLIER
    for folder in sorted(root.glob("*/bank")):
        bank = _readable(folder)
        if bank is None or not any(record.judged for record in bank.concepts):
            continue
        name = next((n for n in atlas if n == bank.class_name), None)
        if name is None:
            _LOG.warning("class %r is not in the new run; what was said of its concepts is lost", bank.class_name)
            continue
        try:
            atlas = atlas.with_bank(name, atlas[name].bank.carry_over(bank))
        except UserError as error:
            _LOG.warning("what was said of the concepts of class %r is lost: %s", name, error)
    shutil.rmtree(root, ignore_errors=True)
    return atlas


def _readable(folder: Path) -> ConceptBank | None:
    try:
        return ConceptBank.load(folder)
    except (UserError, OSError):
        return None
