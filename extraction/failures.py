"""What happens when an image cannot be used: it is counted and logged, and too many end the run."""

from __future__ import annotations

import logging
import math
from collections import Counter

from conceptatlas.extraction.errors import LayerError, SourceError, UserError
from conceptatlas.extraction.manifest import Skipped

logger = logging.getLogger(__name__)


class Failures:
    """Counts the images that cannot be used, and ends the run where the user's policy says so.

    Parameters
    ----------
    on_error
        ``"warn"`` logs each cause once, ``"skip"`` is silent, ``"raise"`` ends the run at the first.
    max_error_rate
        Share of all images that may fail. One image may always, unless the share is 0.
    n_images
        Number of all images.
    layer
        Name of the layer, for messages.
    """

    def __init__(self, on_error: str, max_error_rate: float, n_images: int, layer: str) -> None:
        self._on_error, self._rate, self._layer = on_error, max_error_rate, layer
        self._n_images = n_images
        self._allowed = max(1 if max_error_rate > 0 else 0, math.floor(max_error_rate * n_images))
        self._causes: Counter[str] = Counter()

    def add(self, failure: Skipped, *, known: bool = False) -> None:
        """Count an image; `known` ones were recorded by an earlier run and are not logged again.

        Raises
        ------
        SourceError
            The policy is ``"raise"``, too many images failed, or all did.
        LayerError
            The same, where most of them gave values that are not finite.
        """
        first = not self._causes[failure.cause]
        self._causes[failure.cause] += 1
        n_failed = self._causes.total()
        if n_failed == self._n_images or n_failed > self._allowed:
            raise self._too_many(failure)
        if self._on_error == "raise":
            raise SourceError(f"{failure.path!r} cannot be used ({failure.cause}): {failure.error}.")
        if first and not known and self._on_error == "warn":
            logger.warning(
                "skipping %s (%s: %s); more of this kind are not logged", failure.path, failure.cause, failure.error
            )

    def _too_many(self, last: Skipped) -> UserError:
        counts = ", ".join(f"{count} x {cause}" for cause, count in self._causes.most_common())
        infinite = self._causes["nan"] + self._causes["inf"]
        if 2 * infinite > self._causes.total():
            return LayerError(
                f"the layer {self._layer!r} gives values that are not finite ({counts} of {self._n_images} images): "
                "run the model in float32 or bfloat16, and check its weights."
            )
        if self._causes.total() == self._n_images:
            return SourceError(
                f"none of the {self._n_images} images can be used ({counts}), such as {last.path!r}: {last.error}."
            )
        return SourceError(
            f"too many images cannot be used ({counts} of {self._n_images}, such as {last.path!r}: {last.error}): mend "
            f"them, or raise max_error_rate above {self._rate:g}."
        )
