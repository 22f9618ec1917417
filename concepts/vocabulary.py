"""The words that a concept may be called by: our own list, the user's, and descriptors of a class."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from conceptatlas.extraction.errors import UserError

BUILTIN = Path(__file__).with_name("vocabulary.tsv")
"""The list written for this project: about 2,000 words in groups, one ``word<TAB>group`` a line."""
_LONGEST = 120


@dataclass(frozen=True)
class Vocabulary:
    """Words, each with the group that it belongs to (``texture``, ``part``, ``artefact`` ...).

    Parameters
    ----------
    words : tuple of str
        No two alike, whatever the case.
    groups : tuple of str
        One per word; "" where it has none.
    descriptors : mapping of str to tuple of str
        Further words for the concepts of single classes, by class name (`load_descriptors`).

    Examples
    --------
    >>> words = Vocabulary(("stripes", "wing"), ("texture", "part"))
    >>> len(words), words.group_of("wing"), words.without(["Wing"]).words
    (2, 'part', ('stripes',))
    """

    words: tuple[str, ...]
    groups: tuple[str, ...]
    descriptors: Mapping[str, tuple[str, ...]] = field(default_factory=dict, kw_only=True)

    def __post_init__(self) -> None:
        if len(self.words) != len(self.groups):
            raise UserError(f"A vocabulary needs one group per word, but got {len(self.groups)} for {len(self.words)}.")
        if not self.words:
            raise UserError("A vocabulary needs at least one word, but it is empty.")

    def __len__(self) -> int:
        return len(self.words)

    def group_of(self, word: str) -> str:
        """The group of a word, "" where the word is not in the vocabulary."""
        return dict(zip(self.words, self.groups, strict=True)).get(word, "")

    def only(self, *groups: str) -> Vocabulary:
        """The words of these groups.

        Raises
        ------
        UserError
            Where a group is unknown; the message lists those there are.
        """
        known = dict.fromkeys(self.groups)
        for group in groups:
            if group not in known:
                raise UserError(f"There is no group {group!r} in the vocabulary; it has {', '.join(known)}.")
        return self._with((word, group) for word, group in self._pairs() if group in groups)

    def without(self, banned: Iterable[str]) -> Vocabulary:
        """The vocabulary without words that the user does not want to see as names, whatever their case."""
        gone = {_clean(word).casefold() for word in banned}
        kept = {
            name: tuple(word for word in words if word.casefold() not in gone)
            for name, words in self.descriptors.items()
        }
        left = self._with((word, group) for word, group in self._pairs() if word.casefold() not in gone)
        return replace(left, descriptors=kept)

    def plus(self, words: Iterable[str], group: str = "") -> Vocabulary:
        """The vocabulary with more words; those that it has already stay as they are."""
        return self._with([*self._pairs(), *((word, group) for word in words)])

    def with_descriptors(self, descriptors: Mapping[str, Iterable[str]], class_name: str) -> Vocabulary:
        """The vocabulary with the descriptors of one class, in a group ``descriptor``; itself where it has none.

        Class names are compared without case, with underscores as spaces.

        Examples
        --------
        >>> extra = load_descriptors({"Polar_bear": ["white fur"]})
        >>> Vocabulary(("paw",), ("part",)).with_descriptors(extra, "polar bear").words
        ('paw', 'white fur')
        """
        wanted = _class_key(class_name)
        found = [word for name, words in descriptors.items() if _class_key(name) == wanted for word in words]
        return self.plus(found, "descriptor")

    def for_class(self, class_name: str) -> Vocabulary:
        """The vocabulary with the `descriptors` that it holds for one class after its own words.

        Examples
        --------
        >>> words = load_vocabulary(["paw"], descriptors={"polar_bear": ["white fur"], "ant": ["six legs"]})
        >>> words.words, words.for_class("Polar bear").words
        (('paw',), ('paw', 'white fur'))
        """
        return self.with_descriptors(self.descriptors, class_name)

    @property
    def digest(self) -> str:
        """Sixteen hex digits of the words and descriptors, in their order."""
        lines = [*self.words, *(f"{name}\t{word}" for name, words in self.descriptors.items() for word in words)]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]

    def _with(self, pairs: Iterable[tuple[Any, str]]) -> Vocabulary:
        return replace(_vocabulary(pairs), descriptors=self.descriptors)

    def _pairs(self) -> list[tuple[str, str]]:
        return list(zip(self.words, self.groups, strict=True))


def load_vocabulary(source: Any = None, *, banned: Iterable[str] = (), descriptors: Any = None) -> Vocabulary:
    """The vocabulary in `source`.

    Parameters
    ----------
    source : None, path, list of str, dict or Vocabulary
        None: the list written for this project. A path: a text file with one word a line, or ``word<TAB>group``, blank
        lines and lines that start with ``#`` passed over; or a JSON file of a list or of ``{group: [words]}``. A list:
        words without groups. A dict: ``{group: [words]}``.
    banned : iterable of str
        Words to leave out.
    descriptors : dict or path, optional
        Further words by class, as `load_descriptors` takes them; an audit offers them to the concepts of that class.

    Raises
    ------
    UserError
        Where it cannot be read, holds something else than words, or is empty.

    Examples
    --------
    >>> load_vocabulary({"texture": ["stripes", "dots"]}).groups
    ('texture', 'texture')
    >>> "watermark" in load_vocabulary().words
    True
    """
    if isinstance(source, str | Path):
        source = _read(Path(source))
    elif source is None:
        source = _read(BUILTIN)
    if isinstance(source, Vocabulary):
        vocabulary = source
    elif isinstance(source, Mapping):
        vocabulary = _vocabulary((word, str(group)) for group, words in source.items() for word in _words(words, group))
    else:
        vocabulary = _vocabulary(pair if isinstance(pair, tuple) else (pair, "") for pair in _words(source, ""))
    if descriptors is not None:
        vocabulary = replace(vocabulary, descriptors=load_descriptors(descriptors))
    return vocabulary.without(banned) if banned else vocabulary


def load_descriptors(source: Any) -> dict[str, tuple[str, ...]]:
    """Descriptors by class, from a dict or a JSON file ``{class: [descriptor, ...]}`` (Menon and Vondrick's form).

    Raises
    ------
    UserError
        Where it cannot be read or has another form.

    Examples
    --------
    >>> load_descriptors({"zebra": ["black and white stripes", "a mane"]})
    {'zebra': ('black and white stripes', 'a mane')}
    """
    values = _read(Path(source)) if isinstance(source, str | Path) else source
    if not isinstance(values, Mapping):
        raise UserError('Descriptors are an object like {"zebra": ["stripes", "a mane"]}, one list per class.')
    return {
        str(name): tuple(_clean(word) for word in _words(words, name) if _clean(word)) for name, words in values.items()
    }


def _read(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".json":
            return json.loads(text)
    except (OSError, ValueError) as error:
        raise UserError(f"The words in {path} cannot be read: {error}.") from error
    lines = (line.split("\t") for line in text.splitlines() if line.strip() and not line.startswith("#"))
    return [(parts[0], parts[1].strip() if len(parts) > 1 else "") for parts in lines]


def _words(values: Any, group: Any) -> list[Any]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise UserError(f"Words are given as a list, not as {values!r}" + (f" (in group {group!r})." if group else "."))
    return list(values)


def _vocabulary(pairs: Iterable[tuple[Any, str]]) -> Vocabulary:
    kept: dict[str, tuple[str, str]] = {}
    for word, group in pairs:
        text = _clean(word)
        if text:
            kept.setdefault(text.casefold(), (text, group))
    return Vocabulary(tuple(word for word, _ in kept.values()), tuple(group for _, group in kept.values()))


def _clean(word: Any) -> str:
    if not isinstance(word, str):
        raise UserError(f"A vocabulary holds words, not {word!r}.")
    text = " ".join(word.split())
    if len(text) > _LONGEST:
        raise UserError(f"A word has at most {_LONGEST} characters, but {text[:40]!r}... has {len(text)}.")
    return text


def _class_key(name: str) -> str:
    return " ".join(name.replace("_", " ").split()).casefold()
