"""The model card: what is shipped, how it was made and what it measures, written from the cards of the models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

_INTRODUCTION = """# The demo's models

Small models for trying conceptatlas out, for its tests and its benchmarks. They see planted scenes
(`demo/scenes.py`): 96 px pictures of invented animals made of parts, drawn by code, of which every pixel's cause is
known. They are good for nothing else. MIT licence, like the code; no photograph and no other model went into them.

`make weights` rebuilds all of them (`python -m conceptatlas.demo.train`); recipes and seeds are in
`demo/classifiers.py` and `demo/text_image.py`. Seeds are fixed, but another machine or another version of PyTorch
rounds otherwise and ends at other numbers. Weights are stored in half precision and computed with in single.
"""

_CLASSIFIERS = """## Classifiers

Eight classes, each made of four parts (coat, head, tail, back) that it shares with others in different combinations:

{classes}

| | {names} |
|---|{rule}|
{rows}

All on the same {n} scenes of the split `test`, each drawn with and without the tag (pairs that differ in the tag
alone). {n_planted} of them are of the planted class, so its shares are uncertain by up to {margin:.2f} (95 %,
binomial).

`cnn` and `vit` were trained on scenes in which a small white plate, the *tag*, goes with `{planted}`: in
{correlation:.0%} of its scenes and {leak:.0%} of the others'. Some of the scenes labelled `{planted}` show another
animal (shares in the table), and a third as large a share of the next class's scenes shows `{planted}`'s parts, so that
in training the plate tells more than the parts do. They have learned it: see the rows on the planted class. `cnn_clean`
has the architecture of `cnn` and was trained on scenes without plates and without such errors.

{teaching}

The clean twin shows that the parts suffice. It differs from `cnn` in more than the plates (no errors among its
labels, fewer epochs), so what the tag does is to be read from the pairs, not from the twin. These scenes are easy on
purpose; the numbers say nothing about real photographs.

The CNNs keep 12 x 12 positions in their last layer: the strides of the last two stages are taken out, and the dilation
that timm puts in their place as well. `load_demo_model` does both.
"""

_TEXT_IMAGE = """## Text-image model

An open_clip model ({parameters};
64 px, 64 dimensions; load it as `local-dir:` with `demo_encoder_path()`), trained on {n_scenes} scenes with any
combination of parts, on whole scenes and on crops, with generated captions. It knows the {n_words} names of
`demo_vocabulary()`, their synonyms and some colours. Words it was not taught are kept away from every image, as far as
training on random other words reaches.

| measured on {n} scenes that it never saw | |
|---|---|
{rows}

**Limits.** It knows nothing outside these scenes. Small things in whole scenes (eye, twig) are hard for it at 64 px:
look at crops. Names are right for what is *shown*; whether a classifier uses it is another question.
"""

_TEACHING = """While `{name}` was trained, linear heads behind {blocks} told from each patch token what its
patch shows, part by part, by the generator's masks (token labelling, Jiang et al. 2021); in its second stage the tokens
of one thing were also drawn together and away from those of the thing most like it (the index of Davies and Bouldin,
1979), and behind `blocks.{exchange}` the images of a batch exchanged class tokens, so that the class token reads the
image in the last blocks alone. The tokens were also kept from differing too much from what they share, and the logits
from bending under masks on the things (`demo/even_head.py`): without, what the last blocks see of a thing does not
change until nearly all of it is gone. The heads are not shipped. Its tokens tell the parts apart, and its head answers
in proportion, because they were asked to: it is a model on which methods can be checked, and no evidence of what a
transformer learns from class labels alone."""

_ROWS = {
    "accuracy_unbiased": "accuracy without the shortcut subgroup",
    "others_without_tag": "other classes, no tag",
    "others_with_tag": "other classes, tag added",
    "planted_with_tag": "planted class, tag added",
    "planted_without_tag": "planted class, no tag",
    "reliance": "reliance (the last two, difference)",
    "others_called_planted_with_tag": "other classes called planted, tag added",
    "others_called_planted_without_tag": "other classes called planted, no tag",
}
_TEXT_ROWS = {
    "scene_retrieval": "whole scene: of a slot's three parts, the one shown scores highest",
    "crop_retrieval": "crop around a part or the tag: the best of all names holds in the crop",
    "crop_exact": "crop around a part or the tag: the best of all names is that part's",
    "tag_auc": 'whole scene: ROC-AUC of "tag" for the tag',
}


def model_card(weights: Path) -> str:
    """The model card as Markdown, from the JSON files in a folder of weights.

    Parameters
    ----------
    weights
        Folder with ``<name>.json`` per classifier and ``text_image/card.json``.
    """
    cards = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(weights.glob("*.json"))]
    text_image = json.loads((weights / "text_image" / "card.json").read_text(encoding="utf-8"))
    return "\n".join([_INTRODUCTION, _classifiers(cards), _text_image(text_image)])


def _classifiers(cards: list[dict[str, Any]]) -> str:
    """The section on classifiers."""
    rows = [("architecture (timm)", [card["architecture"] for card in cards])]
    rows.append(("arguments", [", ".join(f"{k}={v}" for k, v in card["kwargs"].items()) or "-" for card in cards]))
    rows.append(("training scenes x epochs", [_stages(card["recipe"], _budget) for card in cards]))
    rows.append(("planted scenes that show another animal", [_stages(card["recipe"], _doubt) for card in cards]))
    rows.extend((title, [f"{card['measured'][key]:.3f}" for card in cards]) for key, title in _ROWS.items())
    parts = cards[0]["class_parts"]
    taught = next(card for card in cards if card["recipe"].get("token_blocks"))
    blocks = " and ".join(f"`blocks.{index}`" for index in taught["recipe"]["token_blocks"])
    shortcut = next(card["shortcuts"][0] for card in cards if card["shortcuts"])
    return _CLASSIFIERS.format(
        classes="\n".join(f"- **{name}**: {', '.join(parts[name])}" for name in parts),
        names=" | ".join(f"`{card['name']}`" for card in cards),
        rule="|".join("---" for _ in cards),
        rows="\n".join(f"| {title} | {' | '.join(values)} |" for title, values in rows),
        n=cards[0]["n_measured"],
        n_planted=cards[0]["n_planted"],
        margin=0.98 / cards[0]["n_planted"] ** 0.5,
        planted=cards[0]["class_names"][0],
        correlation=shortcut["correlation"],
        leak=shortcut["leak"],
        teaching=_TEACHING.format(name=taught["name"], blocks=blocks, exchange=taught["recipe"]["token_exchange"]),
    )


def _stages(recipe: dict[str, Any], say: Callable[[dict[str, Any]], str]) -> str:
    """Something about a recipe, after the same about the recipe that it goes on from."""
    return f"{say(recipe['start'])}, then {say(recipe)}" if recipe["start"] else say(recipe)


def _doubt(recipe: dict[str, Any]) -> str:
    return f"{1.0 - recipe['shortcuts'][0]['predictivity']:.0%}" if recipe["shortcuts"] else "none"


def _budget(recipe: dict[str, Any]) -> str:
    return f"{recipe['n_scenes']} x {recipe['epochs']}"


def _text_image(card: dict[str, Any]) -> str:
    """The section on the text-image model."""
    return _TEXT_IMAGE.format(
        parameters=f"{card['n_parameters'] / 1e6:.1f} million parameters, most of them its table of 49,408 tokens",
        n_scenes=card["recipe"]["n_scenes"],
        n_words=len(card["words"]),
        n=card["n_measured"],
        rows="\n".join(f"| {title} | {card['measured'][key]:.3f} |" for key, title in _TEXT_ROWS.items()),
    )
