"""Units of work on a Ray cluster: the one module that knows Ray.

Actors hold the model; each computes one unit at a time, which writes its product to the run's folder. What passes
through Ray's object store is the recipe (with the model) once, and a small record for each unit: never activations.
"""

from __future__ import annotations

import importlib
import logging
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from conceptatlas.extraction.errors import UserError
from conceptatlas.extraction.pools import RayEngine, Recipe, Result, Unit

logger = logging.getLogger(__name__)

_POLL_SECONDS = 5.0


class RayPool:
    """Computes units in Ray actors.

    Parameters
    ----------
    engine
        The numbers of the run.
    device
        Where the model is in this process.

    Attributes
    ----------
    device
        Where the workers' models are: ``"cuda"`` where they have GPUs.

    Raises
    ------
    UserError
        Ray is not installed.
    """

    def __init__(self, engine: RayEngine, device: Any) -> None:
        kind = torch.device(device).type
        self._engine = replace(engine, gpus=(1 if kind == "cuda" else 0) if engine.gpus is None else engine.gpus)
        self.device = kind if engine.gpus is None else ("cuda" if engine.gpus > 0 else "cpu")
        self._ray = _import_ray()

    def map(self, recipe: Recipe[Unit, Result], units: Sequence[Unit]) -> Iterator[tuple[Unit, Result]]:
        """Yield each unit with its result as it is finished; a unit whose worker dies is computed again.

        Raises
        ------
        UserError
            The cluster has no room for a worker, nothing moves, or one unit has lost its worker too often. Errors of a
            unit itself are raised as they are.
        """
        if not units:
            return
        started = self._start()
        crew = _Crew(self._ray, self._engine, recipe, units)
        try:
            yield from crew.results()
        finally:
            crew.dismiss()
            if started:
                self._ray.shutdown()

    def _start(self) -> bool:
        """Start or join Ray unless the user has; return whether this call did."""
        if self._ray.is_initialized():
            return False
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports home unless it is told not to
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        self._ray.init(**{"include_dashboard": False, "log_to_driver": False, **self._engine.init})
        return True


def _import_ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise UserError(
            f"engine='ray' needs Ray, which cannot be imported ({error}): pip install 'conceptatlas[ray]'."
        ) from None


class _Crew:
    """The actors of one map, what each is doing, and what is left to do."""

    def __init__(self, ray: Any, engine: RayEngine, recipe: Recipe[Any, Any], units: Sequence[Any]) -> None:
        self._ray, self._engine = ray, engine
        self._threads = torch.get_num_threads()
        self._needs = {"CPU": engine.cpus or self._threads, "GPU": engine.gpus or 0}
        self._left: deque[int] = deque(range(len(units)))
        self._units = units
        self._losses = [0] * len(units)
        self._start_losses = 0
        self._busy: dict[Any, tuple[Any, int | None]] = {}  # future -> actor, and its unit (None: it is starting)
        self._recipe = ray.put(recipe)
        self._actor = ray.remote(num_cpus=self._needs["CPU"], num_gpus=self._needs["GPU"], max_restarts=0)(_Worker)
        for _ in range(min(self._room(), len(units))):
            self._hire()

    def results(self) -> Iterator[tuple[Any, Any]]:
        """Yield units with their results until all are done."""
        open_units, moved, anyone = len(self._units), time.monotonic(), False
        while open_units:
            ready, _ = self._ray.wait(list(self._busy), num_returns=1, timeout=_POLL_SECONDS)
            if not ready:
                self._watch(time.monotonic() - moved, anyone)
                continue
            moved = time.monotonic()
            actor, place = self._busy.pop(ready[0])
            outcome = self._outcome(ready[0], place)
            if outcome is not None:
                anyone = True
                if place is not None:
                    open_units -= 1
                    yield self._units[place], outcome[0]
                self._assign(actor)

    def dismiss(self) -> None:
        """End all actors."""
        for actor, _ in self._busy.values():
            self._ray.kill(actor, no_restart=True)
        self._busy.clear()

    def _outcome(self, future: Any, place: int | None) -> tuple[Any] | None:
        """Return a unit's result in a tuple; None where its worker died, after hiring another."""
        try:
            return (self._ray.get(future),)
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, Exception) else error from None
        except self._ray.exceptions.RayActorError as error:
            self._lost(place, error)
            self._hire()
            return None

    def _lost(self, place: int | None, error: Exception) -> None:
        """Put a unit back after its worker has died; raise UserError where that happens again and again."""
        what = "starting" if place is None else f"computing unit {place}"
        logger.warning("a Ray worker died while %s; another takes over", what)
        self._start_losses += place is None
        if place is not None:
            self._losses[place] += 1
            self._left.appendleft(place)
        if self._start_losses > self._engine.retries or (
            place is not None and self._losses[place] > self._engine.retries
        ):
            reason = (str(error).splitlines() or [""])[0]
            raise UserError(
                f"Ray workers died again and again while {what} ({reason}): give each more memory or fewer neighbours "
                "(workers=, cpus=); run again to go on."
            ) from error

    def _hire(self) -> None:
        actor = self._actor.remote(self._recipe, self._threads)
        self._busy[actor.ready.remote()] = (actor, None)

    def _assign(self, actor: Any) -> None:
        if self._left:
            place = self._left.popleft()
            self._busy[actor.compute.remote(self._units[place])] = (actor, place)
        else:
            self._ray.kill(actor, no_restart=True)

    def _room(self) -> int:
        """Return how many workers the cluster has room for, or how many were asked for."""
        has = self._ray.cluster_resources()
        room = min(int(has.get(kind, 0) // need) for kind, need in self._needs.items() if need)
        if not room and self._engine.workers is None:
            raise UserError(f"the Ray cluster has no room for a worker: {self._situation(has)}.")
        return self._engine.workers or room

    def _watch(self, seconds: float, anyone: bool) -> None:
        """Raise UserError where nothing has moved for too long."""
        if not anyone and seconds > self._engine.start_seconds:
            free = self._situation(self._ray.available_resources())
            raise UserError(f"no Ray worker has started in {seconds:.0f} s: {free} free.")
        if seconds > self._engine.stall_seconds:
            raise UserError(
                f"no unit of work was finished in {seconds:.0f} s by Ray; run again to go on, with a higher "
                "stall_seconds if single units take that long."
            )

    def _situation(self, has: dict[str, float]) -> str:
        needs = " and ".join(f"{need:g} {kind}" for kind, need in self._needs.items() if need)
        return f"each needs {needs}, and {has.get('CPU', 0):g} CPU and {has.get('GPU', 0):g} GPU are"


class _Worker:
    """The actor: makes the function once, then computes units."""

    def __init__(self, recipe: Recipe[Any, Any], threads: int) -> None:
        self._recipe, self._threads = recipe, threads

    def ready(self) -> bool:
        """Load the model; errors on the way are the unit's own, and not taken for the worker's death."""
        torch.set_num_threads(self._threads)
        self._compute = self._recipe()
        return True

    def compute(self, unit: Any) -> Any:
        """Return the record of one unit."""
        return self._compute(unit)
