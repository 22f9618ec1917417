"""Parts of a store: several processes that know nothing of each other fill one folder, and `merge` joins what they did.

Part ``i`` of ``n`` computes its own shards and keeps a manifest of its own beside them. The shards have their final
names from the start, so that joining moves no data.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from conceptatlas.extraction.errors import UserError
from conceptatlas.extraction.manifest import shard_name

PARTS = "manifest.*-of-*.jsonl"
_TEXT = re.compile(r"(\d{1,6})/(\d{1,6})")


@dataclass(frozen=True)
class Part:
    """One of several processes that share the work of a run.

    Attributes
    ----------
    index, count
        Which one, from 0, and of how many.
    n_shards
        Number of shards of the whole store; 0 where it does not matter.

    Examples
    --------
    >>> part = Part(1, 3, n_shards=10)
    >>> list(part.shards), part.manifest
    ([3, 4, 5], 'manifest.1-of-3.jsonl')
    """

    index: int
    count: int
    n_shards: int = 0

    @property
    def shards(self) -> range:
        """Indices of the shards of this part."""
        return range(self.index * self.n_shards // self.count, (self.index + 1) * self.n_shards // self.count)

    @property
    def manifest(self) -> str:
        """File name of this part's manifest."""
        return f"manifest.{self.index}-of-{self.count}.jsonl"

    @property
    def lock(self) -> str:
        """File name of this part's lock."""
        return f"lock.{self.index}-of-{self.count}"

    def owns(self, file: str) -> bool:
        """Return whether a file belongs to one of this part's shards.

        >>> Part(1, 3, n_shards=10).owns("shard-00004.safetensors")
        True
        """
        stem = re.match(r"shard-(\d+)\.safetensors", file)
        return stem is not None and int(stem[1]) in self.shards and file.startswith(shard_name(int(stem[1])))


def check_shard(shard: tuple[int, int]) -> tuple[int, int]:
    """Return ``(i, n)`` where ``0 <= i < n``.

    Raises
    ------
    UserError
        It is no such pair.

    Examples
    --------
    >>> check_shard((3, 3))
    Traceback (most recent call last):
    conceptatlas.extraction.errors.UserError: shard must be (i, n) with 0 <= i < n, such as (0, 3), not (3, 3).
    """
    whole = isinstance(shard, (tuple, list)) and len(shard) == 2 and all(type(value) is int for value in shard)
    if not whole or not 0 <= shard[0] < shard[1]:
        raise UserError(f"shard must be (i, n) with 0 <= i < n, such as (0, 3), not {shard!r}.")
    return shard[0], shard[1]


def parse_shard(text: str) -> tuple[int, int]:
    """Return ``(i, n)`` of the text ``i/n``.

    Raises
    ------
    UserError
        The text says something else.

    Examples
    --------
    >>> parse_shard("0/3")
    (0, 3)
    """
    found = _TEXT.fullmatch(text.strip())
    if found is None or not int(found[1]) < int(found[2]):
        raise UserError(f"a shard is given as i/n with i from 0 to n - 1, such as 0/3, not {text!r}.")
    return int(found[1]), int(found[2])
