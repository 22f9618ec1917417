"""What the bank keeps of each concept, and of each decision that a person took about it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal, cast, get_args

from conceptatlas.concepts.names import Name
from conceptatlas.extraction.errors import UserError

Tag = Literal["core", "spurious", "unclear"]


def check_tag(tag: str | None) -> Tag | None:
    """`tag` itself where it is a known one; "" counts as none.

    Raises
    ------
    UserError
        Where the tag is unknown.

    Examples
    --------
    >>> check_tag("spurious"), check_tag("")
    ('spurious', None)
    """
    if tag in (None, ""):
        return None
    if tag not in get_args(Tag):
        raise UserError(f"A concept's tag is one of {', '.join(get_args(Tag))} or empty, not {tag!r}.")
    return cast(Tag, tag)


@dataclass(frozen=True)
class ConceptRecord:
    """One concept of a bank: its name with the evidence, what a person said of it, and its measures.

    Parameters
    ----------
    id : int
        The concept's number. It stays with the concept when others are dropped or merged.
    name : Name or None
        The automatic name; None where naming did not run.
    title : str or None
        What a person called the concept; it goes before the name.
    tag : {"core", "spurious", "unclear"} or None
        A person's judgement.
    note : str
        A person's remark.
    parent : int or None
        The concept that this one is a part of, where the recursion split it.
    quality : dict of str to float
        Measures by name, such as ``coherence``; NaN where one could not be taken.
    whole_image : str
        What of the whole image it is, in words, such as ``dark, blurred``; "" for what is in one place of it.

    Examples
    --------
    >>> ConceptRecord(3).label
    'concept 3'
    >>> ConceptRecord(3, name=Name(("stripes",), "weak")).label
    'stripes?'
    >>> ConceptRecord(3, name=Name(("stripes",), "weak"), title="zebra skin").label
    'zebra skin'
    >>> ConceptRecord(3, whole_image="dark").label
    'whole image: dark'
    """

    id: int
    name: Name | None = None
    title: str | None = None
    tag: Tag | None = None
    note: str = ""
    parent: int | None = None
    quality: dict[str, float] = field(default_factory=dict)
    whole_image: str = field(default="", kw_only=True, repr=False)

    def __post_init__(self) -> None:
        check_tag(self.tag)

    @property
    def label(self) -> str:
        """A person's title, else what of the whole image it is, else the automatic name, else "concept 3".

        A question mark follows a weak name.
        """
        whole = f"whole image: {self.whole_image}" if self.whole_image else ""
        return self.title or whole or (self.name.label if self.name else "") or f"concept {self.id}"

    @property
    def judged(self) -> bool:
        """Whether a person has said anything about the concept."""
        return bool(self.title or self.tag or self.note)

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON-ready values."""
        return {
            "id": int(self.id),
            "name": self.name.to_dict() if self.name else None,
            "title": self.title,
            "tag": self.tag,
            "note": self.note,
            "parent": None if self.parent is None else int(self.parent),
            "quality": {key: float(v) if math.isfinite(v) else None for key, v in self.quality.items()},
            "whole_image": self.whole_image,
        }

    def to_row(self) -> dict[str, Any]:
        """The record as a row of a bank's table."""
        name = self.name or Name((), "unnamed")
        return {
            "concept": self.id,
            "label": self.label,
            "title": self.title,
            "name": name.text or None,
            "name_status": name.status if self.name else None,
            "name_score": name.score,
            "name_p": name.p_null,
            "name_margin": name.margin,
            "name_auc": name.heldout_auc,
            "name_mad": name.mad,
            "name_coherence": name.coherence,
            "name_residual": name.residual,
            "name_reason": name.reason,
            "tag": self.tag,
            "note": self.note,
            "parent": self.parent,
            **self.quality,
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ConceptRecord:
        """The record that `to_dict` wrote."""
        name, parent = values.get("name"), values.get("parent")
        return cls(
            id=int(values["id"]),
            name=Name.from_dict(name) if name else None,
            title=values.get("title"),
            tag=check_tag(values.get("tag")),
            note=values.get("note") or "",
            parent=None if parent is None else int(parent),
            quality={key: math.nan if v is None else float(v) for key, v in values.get("quality", {}).items()},
            whole_image=str(values.get("whole_image") or ""),
        )


@dataclass(frozen=True)
class Edit:
    """One decision about a bank, as its history keeps it.

    Parameters
    ----------
    action : str
        ``rename``, ``merge``, ``drop``, ``tag``, ``note`` or ``carry_over``.
    concepts : tuple of int
        The ids that it touched.
    before, after : any JSON value
        What was replaced, and by what.
    at : str
        The moment, in UTC, as ISO 8601.

    Examples
    --------
    >>> Edit("tag", (3,), None, "spurious", at="2026-01-01T00:00:00+00:00").to_dict()["after"]
    'spurious'
    """

    action: str
    concepts: tuple[int, ...]
    before: Any = None
    after: Any = None
    at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def to_dict(self) -> dict[str, Any]:
        """The edit as JSON-ready values."""
        ids = [int(i) for i in self.concepts]
        return {"action": self.action, "concepts": ids, "before": self.before, "after": self.after, "at": self.at}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Edit:
        """The edit that `to_dict` wrote."""
        ids = tuple(int(i) for i in values["concepts"])
        return cls(values["action"], ids, values.get("before"), values.get("after"), values["at"])
