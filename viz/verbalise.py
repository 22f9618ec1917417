"""Plain sentences from the atlas's numbers, each with its uncertainty: a class, an image, a suspected shortcut.

Nothing is said that no number carries, and what is not known is said to be unknown.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from conceptatlas.viz.concepts import concept_labels
from conceptatlas.viz.links import recall_of
from conceptatlas.viz.strategies import top_contributions
from conceptatlas.viz.tables import known_numbers, numbers_of
from conceptatlas.viz.text import (
    SPACE,
    count,
    interval,
    known,
    number,
    p_text,
    percent,
    shorten,
    signed,
    value_of,
    verdict,
    visible,
)

if TYPE_CHECKING:
    from conceptatlas.audit import ClassAtlas

Row = Mapping[Hashable, Any]
_MOST_NAMED = 4  # concepts of a counterfactual that are named in a sentence
_MOST_MISTAKEN = 2  # classes that missed images are put into, named in a sentence
GRADES = {
    "A": "strong evidence: it misleads the model, the class is missed without it, and changing it changes predictions",
    "B": "good evidence: it is no property of the class, and it misleads the model or the class is missed without it, "
    "as changing it shows; or both are plain without that",
    "C": "some evidence: it misleads, or the class is missed without it, but may belong to the class or is not plain",
    "D": "no sufficient evidence",
}


def describe_class(class_atlas: ClassAtlas, *, images: pd.DataFrame | None = None) -> str:
    """Return a paragraph on what the model looks at in a class and how far that can be trusted.

    Parameters
    ----------
    class_atlas
        The class.
    images
        All images of the audit (``atlas.images``); with them the paragraph also says how many images of the class the
        model misses, and what it calls them.

    Examples
    --------
    >>> from conceptatlas.viz.example import example_class
    >>> describe_class(example_class()).split(".")[0].replace(SPACE, " ")
    'The model puts 48 images into “bee” and is right in 92 %'
    """
    missed = describe_misses(images, class_atlas.name, int(class_atlas.index)) if images is not None else ""
    parts = [_accuracy(class_atlas), missed, _support(class_atlas), _opposition(class_atlas), _strategies(class_atlas)]
    return _tied(" ".join(part for part in [*parts, _places(class_atlas)] if part))


def describe_misses(images: pd.DataFrame, name: str, index: int) -> str:
    """Return how many of the images labelled as a class are recognised, and what most of the others are called.

    Parameters
    ----------
    images
        All images of the audit: ``atlas.images``.
    name, index
        The class.

    Examples
    --------
    >>> frame = pd.DataFrame({"label_index": [1, 1], "predicted_index": [1, 0], "predicted": ["bee", "fly"]})
    >>> describe_misses(frame, "bee", 1).replace(SPACE, " ")
    'Of the 2 images labelled “bee” it recognises 50 %; most of the others are called “fly” (1).'
    """
    labelled = numbers_of(images, "label_index") == index
    recall = recall_of(images, index)
    if recall is None:
        return ""
    missed = images[labelled & (numbers_of(images, "predicted_index") != index)]
    text = f"Of the {count(int(labelled.sum()), 'image')} labelled {quoted(name)} it recognises {percent(recall)}"
    if not len(missed):
        return f"{text}."
    called_so = missed["predicted"].astype(str).value_counts().sort_index().sort_values(ascending=False, kind="stable")
    others = listed([f"{quoted(shorten(other))} ({n})" for other, n in called_so.head(_MOST_MISTAKEN).items()])
    return f"{text}; most of the others are called {others}."


def describe_image(class_atlas: ClassAtlas, row: int) -> str:
    """Return a paragraph on what decided one image.

    Parameters
    ----------
    class_atlas
        The class that the image was predicted as.
    row
        Its row in ``class_atlas.images``.

    Examples
    --------
    >>> from conceptatlas.viz.example import example_class
    >>> describe_image(example_class(), 0).split(".")[0]
    'The model calls this image “bee” with a probability of 0'
    """
    image = class_atlas.images.iloc[row].to_dict()
    name, probability = quoted(class_atlas.name), number(image.get("probability"))
    first = f"The model calls this image {name} with a probability of {probability}"
    parts = [f"{called(class_atlas, c)} ({signed(v)})" for c, v in top_contributions(class_atlas, row)]
    residual, bias = float(class_atlas.residual[row]), float(class_atlas.bias[row])
    sums = f"The score of {signed(image.get('logit'))} is the bias ({signed(bias)}) plus what the concepts bring"
    return (
        f"{first}; {_verdict(image)}. {sums}, most of all {listed(parts)}; "
        f"{signed(residual)} is explained by no concept.{_told_flip(class_atlas, flip_of(image))}"
    )


@dataclass(frozen=True)
class Flip:
    """What it takes for an image to be decided otherwise.

    Attributes
    ----------
    concepts
        The concepts to remove, the strongest first.
    to
        The class that wins then.
    flipped
        Whether removing them suffices.
    smallest
        Whether no smaller set exists.
    """

    concepts: tuple[int, ...]
    to: str
    flipped: bool
    smallest: bool


def flip_of(image: Row) -> Flip | None:
    """Return the counterfactual of a row of ``class_atlas.images``, None where it was not sought.

    >>> flip_of({"counterfactual": [2], "flips_to": "ant", "flipped": True, "smallest": True}).to
    'ant'
    >>> flip_of({"counterfactual": None}) is None
    True
    """
    concepts, to = image.get("counterfactual"), value_of(image, "flips_to")
    if concepts is None or isinstance(concepts, float) or to is None:
        return None
    sure = (bool(value_of(image, key)) for key in ("flipped", "smallest"))
    return Flip(tuple(int(concept) for concept in concepts), str(to), *sure)


def _told_flip(class_atlas: ClassAtlas, flip: Flip | None) -> str:
    if flip is None:
        return ""
    if not flip.flipped:
        return f" Without any of the concepts that speak for it, {quoted(flip.to)} would still not win."
    if len(flip.concepts) > _MOST_NAMED:
        return f" Without {len(flip.concepts)} of its concepts it would be called {quoted(flip.to)}."
    named = listed([called(class_atlas, concept) for concept in flip.concepts])
    least = "; no smaller set does that" if flip.smallest and len(flip.concepts) > 1 else ""
    return f" Without {named} it would be called {quoted(flip.to)}{least}."


def describe_shortcut(row: Row) -> str:
    """Return a paragraph on the evidence for one suspected shortcut.

    Parameters
    ----------
    row
        A row of ``atlas.shortcuts()``. Columns that are missing or unknown are said to be unknown.

    Examples
    --------
    >>> text = describe_shortcut({"class": "bee", "label": "plate", "grade": "C", "ablation_effect": -0.4})
    >>> text.split(". ")[1]
    'Lowering it to its average changes the probability of “bee” by −0.40'
    """
    label, name = quoted(value_of(row, "label") or "a concept"), quoted(row.get("class", "the class"))
    said = [
        _presence(row, label, name),
        _misses(row, name),
        _misleads(row, name),
        _causes(row, name),
        _adds(row, name),
        _foreground(row),
        _p_value(row),
    ]
    sentences = [sentence for sentence in said if sentence]
    missing = _unknown(row)
    if missing:
        sentences.append(f"Not known here: {', '.join(missing)}.")
    grade = str(row.get("grade", "D"))
    sentences.append(f"Grade {grade}: {GRADES.get(grade, 'not graded')}.")
    return _tied(" ".join(sentences))


def headline(row: Row) -> str:
    """Return the gist of a suspected shortcut in one or two sentences, without intervals; empty where nothing is known.

    >>> told = headline({"class": "bee", "false_positive_with": 0.6, "false_positive_without": 0.02})
    >>> told.replace(SPACE, " ")
    'Of the images of other classes 60 % are called “bee” with it, 2.0 % without it.'
    """
    name = quoted(row.get("class", "the class"))
    said = []
    if _both(row, "false_positive"):
        a, b = percent(row["false_positive_with"]), percent(row["false_positive_without"])
        said.append(f"Of the images of other classes {a} are called {name} with it, {b} without it.")
    if _both(row, "accuracy"):
        a, b = percent(row["accuracy_with"]), percent(row["accuracy_without"])
        said.append(f"Of the images of {name} {a} are recognised with it, {b} without it.")
    flips, n = value_of(row, "ablation_flips"), value_of(row, "n_ablated")
    if flips is not None and n:
        said.append(f"Taking it out changes {percent(flips)} of {count(int(n), 'decision')}.")
    return " ".join(said)


def quoted(text: object) -> str:
    """Return a name in quotation marks, without characters that could disguise its neighbours.

    >>> quoted("red plate")
    '“red plate”'
    """
    return f"“{visible(text)}”"


def called(class_atlas: ClassAtlas, concept: int, *, start: bool = False) -> str:
    """Return what to call a concept in (or at the `start` of) a sentence: its name in quotation marks, or its number.

    >>> from conceptatlas.viz.example import example_class
    >>> called(example_class(), 0)
    '“stripes”'
    """
    label = concept_labels(class_atlas)[concept]
    if label.startswith(f"concept {concept}"):
        return label.capitalize() if start else label
    return quoted(label)


def listed(parts: Sequence[str]) -> str:
    """Return an enumeration in words.

    >>> listed(["a", "b", "c"]), listed(["a"])
    ('a, b and c', 'a')
    """
    if len(parts) < 2:
        return "".join(parts)
    return f"{', '.join(parts[:-1])} and {parts[-1]}"


def _tied(text: str) -> str:
    """Keep a number and its percent sign on one line."""
    return text.replace(" %", f"{SPACE}%")


def _accuracy(atlas: ClassAtlas) -> str:
    first = f"The model puts {count(atlas.n_images, 'image')} into {quoted(atlas.name)}"
    labelled = known_numbers(atlas.images, "correct")
    if not len(labelled):
        return f"{first}; none has a label, so nothing is known about its errors."
    scope = "" if len(labelled) == atlas.n_images else f" of the {len(labelled)} that have a label"
    return f"{first} and is right in {percent(float(labelled.mean()))}{scope}."


def _support(atlas: ClassAtlas) -> str:
    rows = [row for row in atlas.concepts.to_dict("records") if known(row["importance"]) and row["importance"] > 0]
    if not rows:
        return "No concept speaks for the class on balance."
    shares = [f"{called(atlas, int(row['concept']))} ({_share(row, first=i == 0)})" for i, row in enumerate(rows[:3])]
    return f"Of what moves its score, most is {listed(shares)}."


def _opposition(atlas: ClassAtlas) -> str:
    rows = [row for row in atlas.concepts.to_dict("records") if known(row.get("importance_high"))]
    against = [row for row in rows if row["importance_high"] < 0]
    if not against:
        return ""
    return f"{called(atlas, int(against[0]['concept']), start=True)} speaks against it ({_share(against[0])})."


def _share(row: Row, *, first: bool = False) -> str:
    bounds = interval(row.get("importance_low"), row.get("importance_high"), as_percent=True, signs=True)
    named = "95 % interval " if first else ""
    return f"{signed(100 * row['importance'], 0)} %" + (f", {named}{bounds}" if bounds else "")


def _strategies(atlas: ClassAtlas) -> str:
    if not len(atlas.strategies):
        return ""
    rows = atlas.strategies.to_dict("records")
    top = int(rows[0]["concept"])
    text = f"{called(atlas, top, start=True)} dominates most images ({percent(rows[0]['prevalence'])})"
    rated = [row for row in rows if known(row["reliability"]) and row["n_images"] >= 5]
    if not rated:
        return f"{text}."
    worst = min(rated, key=lambda row: row["reliability"])
    if worst["reliability"] == max(row["reliability"] for row in rated) and len(rated) > 1:
        return f"{text}; all strategies are equally reliable ({percent(worst['reliability'])} right)."
    bounds = interval(worst["reliability_low"], worst["reliability_high"], as_percent=True)
    found = f"{percent(worst['reliability'])} right ({bounds}, {count(int(worst['n_images']), 'image')})"
    if worst is rows[0]:
        return f"{text}, and these are {'the least reliable: ' if len(rated) > 1 else ''}{found}."
    return f"{text}. Least reliable are those that {called(atlas, int(worst['concept']))} dominates: {found}."


def _places(atlas: ClassAtlas) -> str:
    held = known_numbers(atlas.concepts, "place_known")
    if not len(held):
        return ""
    n, k = int(held.sum()), len(held)
    if n == k:
        return "The maps of all its concepts tell where they come from."
    rest = "for the other one" if k - n == 1 else "for the others"
    return f"The maps of {n} of its {k} concepts tell where they come from; {rest} the place is not known."


def _verdict(image: Row) -> str:
    correct = verdict(image.get("correct"))
    if correct is None:
        return "it has no label"
    return "its label agrees" if correct else f"its label is {quoted(image.get('label'))}"


def _presence(row: Row, label: str, name: str) -> str:
    inside, outside = value_of(row, "presence_in_class"), value_of(row, "presence_elsewhere")
    if inside is None:
        return f"{label} is a concept of {name}."
    rest = f" and in {percent(outside)} of the others" if outside is not None else ""
    return f"{label} is found in {percent(inside)} of the images of {name}{rest}."


def _with_bounds(row: Row, key: str) -> str:
    bounds = interval(value_of(row, f"{key}_low"), value_of(row, f"{key}_high"), as_percent=True)
    return f"{percent(row[key])} ({bounds})" if bounds else percent(row[key])


def _gap(row: Row, key: str) -> str:
    bounds = interval(value_of(row, f"{key}_gap_low"), value_of(row, f"{key}_gap_high"), as_percent=True)
    return f" (difference {signed(100 * row[f'{key}_gap'], 0)} points, 95 % interval {bounds})" if bounds else ""


def _misses(row: Row, name: str) -> str:
    if not _both(row, "accuracy"):
        return ""
    a, b = _with_bounds(row, "accuracy_with"), _with_bounds(row, "accuracy_without")
    return f"Images of {name} are recognised in {a} of cases with it and in {b} without it{_gap(row, 'accuracy')}."


def _misleads(row: Row, name: str) -> str:
    if not _both(row, "false_positive"):
        return ""
    a, b = _with_bounds(row, "false_positive_with"), _with_bounds(row, "false_positive_without")
    gap = _gap(row, "false_positive")
    return f"Images of other classes are called {name} in {a} of cases with it and in {b} without it{gap}."


def _causes(row: Row, name: str) -> str:
    change, flips = value_of(row, "ablation_effect"), value_of(row, "ablation_flips")
    if change is None:
        return ""
    n = value_of(row, "n_ablated")
    where = f" in {count(int(n), 'image')} that hold it" if n else ""
    flipped = f" and the prediction in {percent(flips)} of them" if flips is not None else ""
    return f"Lowering it to its average{where} changes the probability of {name} by {signed(change)}{flipped}."


def _adds(row: Row, name: str) -> str:
    change, flips = value_of(row, "addition_effect"), value_of(row, "addition_flips")
    if change is None:
        return ""
    flipped = f"; {percent(flips)} of them are then called {name}" if flips is not None else ""
    return f"Putting it into images of other classes changes the probability of {name} by {signed(change)}{flipped}."


def _foreground(row: Row) -> str:
    share, area = value_of(row, "foreground_share"), value_of(row, "foreground_area")
    if share is None:
        return ""
    known = row.get("foreground_source", "masks") == "masks"
    where = "on the object" if known else "in the part that the model's features set apart from the rest"
    size = f", which covers {percent(area)} of the images" if area is not None else ""
    return f"{percent(share)} of its map lies {where}{size}."


def _p_value(row: Row) -> str:
    value = value_of(row, "p_value")
    if value is None:
        return ""
    return f"That it goes with the prediction by chance alone: {p_text(value)}, corrected for all pairs tested."


def _both(row: Row, key: str) -> bool:
    return value_of(row, f"{key}_with") is not None and value_of(row, f"{key}_without") is not None


def _unknown(row: Row) -> list[str]:
    missing = {
        "accuracy with and without it": not _both(row, "accuracy"),
        "how often it misleads": not _both(row, "false_positive"),
        "the effect of taking it out": value_of(row, "ablation_effect") is None,
        "the effect of adding it": value_of(row, "addition_effect") is None,
        "its p-value": value_of(row, "p_value") is None,
    }
    return [what for what, absent in missing.items() if absent]
