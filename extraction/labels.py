"""Names of a model's classes, and the match between folder names and classes."""

from __future__ import annotations

import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from torch import nn

from conceptatlas.extraction.errors import UserError

logger = logging.getLogger(__name__)

_WORDNET = re.compile(r"n\d{8}")


def class_names_of(model: nn.Module, n_classes: int) -> list[str] | None:
    """Return short, readable, unique names of a model's classes, or None where the model does not say.

    Parameters
    ----------
    model
        A timm model (its ``pretrained_cfg`` names the label set), or a torchvision classifier.
    n_classes
        Number of logits; names are returned only if there are as many.

    Examples
    --------
    >>> from conceptatlas.extraction import load_model
    >>> class_names_of(load_model("test_resnet", pretrained=False), 1000)[309]
    'bee'
    """
    if given := _given_names(model, n_classes):
        return given
    synsets = _synsets(model, n_classes)
    if synsets is None:
        return None
    lemmas = [lemma for _, lemma, _ in synsets]
    return _unique_names(lemmas, [definition for _, _, definition in synsets])


def class_synonyms_of(model: nn.Module, n_classes: int) -> list[tuple[str, ...]] | None:
    """Return all names that stand for each class (every lemma and the WordNet id), or None.

    Examples
    --------
    >>> from conceptatlas.extraction import load_model
    >>> class_synonyms_of(load_model("test_resnet", pretrained=False), 1000)[310]
    ('ant', 'emmet', 'pismire', 'n02219486')
    """
    synsets = _synsets(model, n_classes)
    if synsets is None:
        return None
    return [(*(lemma.strip() for lemma in lemmas.split(",")), synset) for synset, lemmas, _ in synsets]


def _given_names(model: nn.Module, n_classes: int) -> list[str] | None:
    config = getattr(model, "pretrained_cfg", None) or {}
    names = config.get("label_names")
    return [str(name) for name in names] if names and len(names) == n_classes else None


def _synsets(model: nn.Module, n_classes: int) -> list[tuple[str, str, str]] | None:
    """Return WordNet id, lemmas and definition of each class of an ImageNet model, or None."""
    config = getattr(model, "pretrained_cfg", None) or {}
    from_torchvision = type(model).__module__.startswith("torchvision.models") and n_classes == 1000
    if config.get("num_classes") != n_classes and not from_torchvision:
        return None
    from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset({"num_classes": n_classes})
    if subset is None:
        return None
    info = ImageNetInfo(subset)
    described = [info.index_to_description(index, detailed=True) for index in range(n_classes)]
    divided = (text.partition(": ") for text in described)
    return [(synset, lemma, rest) for synset, (lemma, _, rest) in zip(info.label_names(), divided, strict=True)]


def _unique_names(lemmas: Sequence[str], definitions: Sequence[str]) -> list[str]:
    """Return the first lemma of each class; where two share it, with the first word of the definition that differs."""
    names = [lemma.split(",")[0].strip() for lemma in lemmas]
    twice = {name for name, count in Counter(names).items() if count > 1}
    groups: dict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(names):
        if name in twice:
            groups[name].append(index)
    for name, members in groups.items():
        words = [set(re.findall(r"[a-z]{4,}", definitions[index].lower())) for index in members]
        for position, index in enumerate(members):
            others = set().union(*(word for other, word in enumerate(words) if other != position))
            own = (word for word in re.findall(r"[a-z]{4,}", definitions[index].lower()) if word not in others)
            names[index] = f"{name} ({next(own, index)})"
    return names


def match_labels(
    folder_labels: Iterable[str | int],
    class_names: Sequence[str],
    synonyms: Sequence[Sequence[str]] | None = None,
    mapping: Mapping[str | int, str | int] | None = None,
) -> dict[str | int, int | None]:
    """Return which class each label of the images stands for; None where it stands for none, or for several.

    Asked in this order: the user's map; the class of the same name (case, ``_``, ``-`` and spaces do not count); a
    synonym or WordNet id; integers, where all labels are integers; the singular of a plural. Labels without a class
    are logged once.

    Parameters
    ----------
    folder_labels
        Names of class folders, or a dataset's labels; repetitions count once.
    class_names
        Name of each class, (n_classes,).
    synonyms
        All names of each class, as `class_synonyms_of` returns them.
    mapping
        The user's map from label to class name, synonym or index; labels that it leaves out are matched by name.

    Raises
    ------
    UserError
        The map names a class that the model does not have.

    Examples
    --------
    >>> match_labels(["Ants", "bee", "wasps"], ["ant", "bee"])
    {'Ants': 0, 'bee': 1, 'wasps': None}
    """
    labels = list(dict.fromkeys(folder_labels))
    by_name, by_synonym = _index_of_names(class_names), _index_of_synonyms(class_names, synonyms)
    integers = bool(labels) and all(str(label).isascii() and str(label).isdigit() for label in labels)
    matched: dict[str | int, int | None] = {}
    for label in labels:
        if mapping is not None and label in mapping:
            matched[label] = _class_index(mapping[label], class_names, by_name, by_synonym)
        else:
            matched[label] = _match(label, by_name, by_synonym, len(class_names) if integers else 0)
    unmapped = [str(label) for label, index in matched.items() if index is None]
    if unmapped:
        shown = ", ".join(unmapped[:5]) + (f" and {len(unmapped) - 5} more" if len(unmapped) > 5 else "")
        logger.warning("no class of the model is called %s: their images count as unlabelled; a map helps.", shown)
    return matched


def _match(
    label: str | int, by_name: dict[str, set[int]], by_synonym: dict[str, set[int]], n_integer_classes: int
) -> int | None:
    text = _normalised(str(label))
    for index in (by_name, by_synonym):
        if text in index:
            return _only(index[text])
    if n_integer_classes:
        return int(label) if int(label) < n_integer_classes else None
    for index in (by_name, by_synonym):
        for singular in _singulars(text):
            if singular in index:
                return _only(index[singular])
    return None


def _class_index(
    wanted: str | int, class_names: Sequence[str], by_name: dict[str, set[int]], by_synonym: dict[str, set[int]]
) -> int:
    """Return the class that a user's map names, by index, name or synonym."""
    if isinstance(wanted, int):
        if 0 <= wanted < len(class_names):
            return wanted
        raise UserError(f"labels names the class {wanted}, but the model has the classes 0 to {len(class_names) - 1}.")
    text = _normalised(wanted)
    found = _only(by_name.get(text, set()) or by_synonym.get(text, set()))
    if found is None:
        raise UserError(f"labels names the class {wanted!r}, which the model does not have, or more than once.")
    return found


def _only(indices: set[int]) -> int | None:
    return next(iter(indices)) if len(indices) == 1 else None


def _normalised(text: str) -> str:
    return re.sub(r"[\s_\-]+", " ", text).strip().casefold()


def _singulars(text: str) -> list[str]:
    """Return what the singular of a regular English plural may be."""
    found = []
    if text.endswith("ies"):
        found.append(text[:-3] + "y")
    if text.endswith("ves"):
        found += [text[:-3] + "f", text[:-3] + "fe"]
    if text.endswith("es"):
        found.append(text[:-2])
    if text.endswith("s") and not text.endswith("ss"):
        found.insert(0, text[:-1])
    return found


def _index_of_names(names: Sequence[str]) -> dict[str, set[int]]:
    index: dict[str, set[int]] = defaultdict(set)
    for position, name in enumerate(names):
        index[_normalised(name)].add(position)
    return dict(index)


def _index_of_synonyms(names: Sequence[str], synonyms: Sequence[Sequence[str]] | None) -> dict[str, set[int]]:
    index: dict[str, set[int]] = defaultdict(set)
    for position, words in enumerate(synonyms or [()] * len(names)):
        for word in words:
            index[_normalised(word)].add(position)
    return dict(index)
