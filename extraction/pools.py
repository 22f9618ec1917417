"""Where units of work are computed: in this process, or in workers of a Ray cluster. The units are the same.

A pool is given a recipe for a worker (a callable without arguments, which loads the model and returns a function of one
unit) and the units. Units write their products to disk themselves; only small records come back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from conceptatlas.extraction.errors import UserError

Unit = TypeVar("Unit")
Result = TypeVar("Result")
Recipe = Callable[[], Callable[[Unit], Result]]

ENGINES = ("local", "ray")


@dataclass(frozen=True)
class RayEngine:
    """The numbers of a Ray run; ``engine="ray"`` takes all of them as they stand here.

    Attributes
    ----------
    workers
        Processes, each with the model loaded once; as many as the cluster has room for where None.
    cpus
        CPUs of each worker. Where None, as many as torch uses threads here: the same number of threads gives the same
        bits.
    gpus
        GPUs of each worker; where None, one if the model is on a GPU here.
    retries
        How often one unit may lose its worker before the run gives up.
    start_seconds, stall_seconds
        The run ends with an error where no worker starts, or no unit is finished, for so long.
    init
        Arguments of ``ray.init``, which is only called where Ray is not running; such as ``{"address": "auto"}``.

    Examples
    --------
    >>> RayEngine(workers=2, cpus=1).retries
    3
    """

    workers: int | None = None
    cpus: float | None = None
    gpus: float | None = None
    retries: int = 3
    start_seconds: float = 600.0
    stall_seconds: float = 3600.0
    init: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise UserError where a number is out of range."""
        for name in ("workers", "cpus", "start_seconds", "stall_seconds"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise UserError(f"{name} of a RayEngine must be positive, not {value}.")


class Pool(Protocol):
    """What the stages of a run ask of an engine."""

    @property
    def device(self) -> str:
        """The device that units are computed on."""
        ...

    def map(self, recipe: Recipe[Unit, Result], units: Sequence[Unit]) -> Iterator[tuple[Unit, Result]]:
        """Yield each unit with its result, in any order."""
        ...


class LocalPool:
    """Computes units one after the other in this process, where the model is."""

    def __init__(self, device: Any) -> None:
        self.device = str(device)

    def map(self, recipe: Recipe[Unit, Result], units: Sequence[Unit]) -> Iterator[tuple[Unit, Result]]:
        """Yield each unit with its result, in order.

        >>> list(LocalPool("cpu").map(lambda: abs, [-1, 2]))
        [(-1, 1), (2, 2)]
        """
        if units:
            compute = recipe()
            for unit in units:
                yield unit, compute(unit)


def pool_of(engine: str | RayEngine, device: Any) -> Pool:
    """Return the pool of an engine, for a model that is on a device of this process.

    Raises
    ------
    UserError
        There is no such engine, or Ray is not installed.

    Examples
    --------
    >>> pool_of("local", "cpu").device
    'cpu'
    """
    if engine == "local":
        return LocalPool(device)
    if engine == "ray" or isinstance(engine, RayEngine):
        from conceptatlas.extraction.ray_pool import RayPool

        return RayPool(engine if isinstance(engine, RayEngine) else RayEngine(), device)
    raise UserError(f"engine must be one of {', '.join(ENGINES)} or a RayEngine, not {engine!r}.")
