"""`Name`: what a concept may be called, with the evidence, or no name."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from conceptatlas.extraction.errors import UserError

NameStatus = Literal["named", "weak", "unnamed"]
_NUMBERS = ("score", "p_null", "margin", "heldout_auc", "mad", "coherence", "residual")


@dataclass(frozen=True)
class Name:
    """Text that retrieves a concept's image regions, with the evidence for it. It is not what the concept *means*.

    Parameters
    ----------
    words : tuple of str
        The words, most important first; empty where the status is ``unnamed``.
    status : {"named", "weak", "unnamed"}
        ``named``: every test passed. ``weak``: shown with a question mark. ``unnamed``: no word passed.
    score : float
        The first word's contrast: mean cosine with the concept's regions minus that with the other regions, in [-2, 2].
    p_null : float
        The larger of two shares, each in (0, 1]: of draws of as many random regions in which *any* word of the
        vocabulary scores as high; of draws of as many words that mean nothing in which the best stands out as far.
    margin : float
        Score minus that of the best word which is no near-synonym; smaller is less sure.
    heldout_auc : float
        Area under the ROC curve of the word's cosine for "the concept is present", on images that did not choose
        the word, in [0, 1]; 0.5 is chance.
    mad : float
        Mean difference of the word's cosine between held-out regions with and without the concept, in standard
        deviations of those without.
    coherence : float
        Mean pairwise cosine of the concept's strongest regions minus that of random regions; above 0 is coherent.
    residual : float
        Share of the concept's direction in the text-image space that `words` do not span: 1 - cosine, in [0, 2].
    candidates : tuple of (str, float)
        The best words with their scores, best first, whatever the status.
    synonyms : tuple of str
        Words that the encoder cannot tell from the first one.
    agreement : int
        How many of the scores put the first word, or a near-synonym, on top.
    reason : str
        Why the concept is not ``named``; empty where it is.

    Examples
    --------
    >>> Name(("stripes",), "named", score=0.2, heldout_auc=0.97).text
    'stripes'
    >>> Name(("stripes",), "weak").label
    'stripes?'
    >>> Name((), "unnamed", reason="too few regions").text
    ''
    """

    words: tuple[str, ...]
    status: NameStatus
    score: float = math.nan
    p_null: float = math.nan
    margin: float = math.nan
    heldout_auc: float = math.nan
    mad: float = math.nan
    coherence: float = math.nan
    residual: float = math.nan
    candidates: tuple[tuple[str, float], ...] = ()
    synonyms: tuple[str, ...] = field(default=(), kw_only=True)
    agreement: int = field(default=0, kw_only=True)
    reason: str = field(default="", kw_only=True)

    def __post_init__(self) -> None:
        if self.status not in get_args(NameStatus):
            raise UserError(f"A name's status is one of {', '.join(get_args(NameStatus))}, not {self.status!r}.")
        if self.status == "unnamed" and self.words:
            raise UserError(f"An unnamed concept has no words, but got {self.words}; keep them in `candidates`.")
        if self.status != "unnamed" and not self.words:
            raise UserError(f"A name with status {self.status!r} needs at least one word.")

    @property
    def text(self) -> str:
        """The words joined by " + ", or "" where there is no name."""
        return " + ".join(self.words)

    @property
    def label(self) -> str:
        """The text as it may be shown: a question mark follows a weak name; "" where there is no name."""
        return f"{self.text}?" if self.status == "weak" else self.text

    @property
    def evidence(self) -> str:
        """The numbers in one line, to stand beside the name.

        Examples
        --------
        >>> Name(("tag",), "named", p_null=0.002, heldout_auc=0.96, margin=0.05).evidence
        'text that retrieves these regions: held-out AUC 0.96, p 0.002, margin 0.050'
        """
        if self.status == "unnamed":
            return f"no name: {self.reason}" if self.reason else "no name"
        numbers = f"held-out AUC {self.heldout_auc:.2f}, p {self.p_null:.3g}, margin {self.margin:.3f}"
        return f"text that retrieves these regions: {numbers}" + (f"; weak: {self.reason}" if self.reason else "")

    def to_dict(self) -> dict[str, Any]:
        """The name as JSON-ready values; a number that is not known is None."""
        values = asdict(self)
        for key in _NUMBERS:
            values[key] = float(values[key]) if math.isfinite(values[key]) else None
        values["words"], values["synonyms"] = list(self.words), list(self.synonyms)
        values["candidates"] = [[word, float(score)] for word, score in self.candidates]
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Name:
        """The name that `to_dict` wrote; keys that this version does not know are passed over."""
        known = {item.name for item in fields(cls)}
        kept = {key: value for key, value in values.items() if key in known}
        for key in _NUMBERS:
            kept[key] = math.nan if kept.get(key) is None else float(kept[key])
        kept["words"] = tuple(str(word) for word in kept.get("words", ()))
        kept["synonyms"] = tuple(str(word) for word in kept.get("synonyms", ()))
        kept["candidates"] = tuple((str(word), float(score)) for word, score in kept.get("candidates", ()))
        return cls(**kept)
