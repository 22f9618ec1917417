"""Progress of a long run: one bar per stage, or a callable that the user gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Tick = Callable[[int, int], None]


class Progress:
    """Progress bars (True), silence (False) or a callable ``(stage, done, total)``."""

    def __init__(self, wanted: bool | Callable[[str, int, int], None]) -> None:
        self._wanted = wanted

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Tick]:
        """Open a stage and yield the function that is told ``(done, total)``."""
        if callable(self._wanted):
            report = self._wanted
            yield lambda done, total: report(name, done, total)
            return
        from tqdm.auto import tqdm

        with tqdm(total=total, desc=name, disable=not self._wanted) as bar:

            def tick(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            yield tick
