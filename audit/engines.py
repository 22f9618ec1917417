"""Classes as units of work: the same unit for every engine, which writes its class to the run's folder itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from conceptatlas.audit import storage
from conceptatlas.audit.classes import fit_class
from conceptatlas.audit.context import Context
from conceptatlas.audit.progress import Tick
from conceptatlas.concepts import CachedEncoder, OpenClipEncoder, TextImageEncoder
from conceptatlas.extraction.plan import portable
from conceptatlas.extraction.pools import LocalPool, Pool


@dataclass(frozen=True)
class ClassWork:
    """The classes of a run that are to be fitted.

    Attributes
    ----------
    context
        The audit.
    encoder
        As the user gave it: an encoder, the name of one, or None.
    classes
        (index, slug) of each class, the one with most images first: it chooses the run's map.
    pool
        Where classes are fitted.
    """

    context: Context
    encoder: TextImageEncoder | str | None
    classes: list[tuple[int, str]]
    pool: Pool

    def run(self, tick: Tick) -> Context:
        """Fit what is not there yet, and return the context with the run's map."""
        context = self._settled(save=True)
        self._fit(context, self.classes, tick)
        return context

    def run_part(self, index: int, count: int, tick: Tick) -> None:
        """Fit every `count`-th class from `index` on; another part's first class is only fitted for its choice of map.

        Parts do not wait for each other.
        """
        mine = self.classes[index::count]
        if mine:
            self._fit(self._settled(save=index == 0), mine, tick)

    def _settled(self, *, save: bool) -> Context:
        """Return the context with the map that the first class chose, fitting that class where it is not there."""
        if not self.classes:
            return self.context
        index, slug = self.classes[0]
        if storage.has_class(self.context.run_dir, slug):
            method = storage.read_evidence(self.context.run_dir, slug)[1]
        else:
            member, proof = fit_class(self.context, index)
            method = str(member.concepts["map"].iloc[0])
            if save:
                storage.save_class(self.context.run_dir, member, proof)
        return replace(self.context, map_method=self.context.map_method or method)

    def _fit(self, context: Context, classes: list[tuple[int, str]], tick: Tick) -> None:
        """Fit the classes that are not there."""
        missing = [index for index, slug in classes if not storage.has_class(context.run_dir, slug)]
        done = len(classes) - len(missing)
        tick(done, len(classes))
        for _ in self.pool.map(self._recipe(context), missing):
            done += 1
            tick(done, len(classes))

    def _recipe(self, context: Context) -> Callable[[], Callable[[int], str]]:
        """Return what makes a worker; in another process it gets paths for open files, and names for models."""
        if isinstance(self.pool, LocalPool):
            return lambda: partial(fit_and_save, context)
        folder = context.run_dir.absolute()
        bare = replace(context, encoder=None, run_dir=folder, split=portable(context.split))
        return partial(class_worker, bare, self.encoder, folder / "embeddings", self.pool.device)


def fit_and_save(context: Context, index: int) -> str:
    """Fit one class, write it to the run's folder, and return its map: the unit of work."""
    member, proof = fit_class(context, index)
    storage.save_class(context.run_dir, member, proof)
    return str(member.concepts["map"].iloc[0])


def class_worker(
    context: Context, encoder: TextImageEncoder | str | None, embeddings: Path, device: str
) -> Callable[[int], str]:
    """Return a function that fits and writes the class of an index; models are loaded and placed once, here."""
    halves: Any = context.split
    named = OpenClipEncoder(encoder, device=device) if isinstance(encoder, str) else encoder
    ready = replace(
        context,
        split=halves.to(device) if str(halves.device) != device else halves,
        encoder=None if named is None else CachedEncoder(named, embeddings),
    )
    return partial(fit_and_save, ready)


def proofs_of(context: Context, classes: list[tuple[int, str]]) -> pd.DataFrame:
    """Return the evidence of all classes, as read from the run's folder."""
    proofs = [storage.read_evidence(context.run_dir, slug)[0] for _, slug in classes]
    proofs = [proof for proof in proofs if len(proof)]
    return pd.concat(proofs, ignore_index=True) if proofs else pd.DataFrame()
