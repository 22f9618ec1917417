"""What the demo's text-image model gets right: words for scenes and for crops that it never saw."""

from __future__ import annotations

from typing import Any

import numpy as np
import open_clip
import torch
from numpy.typing import NDArray
from torch import nn

from conceptatlas.demo.captions import Box, all_phrases, part_words, words_in_crop
from conceptatlas.demo.classifiers import to_tensor
from conceptatlas.demo.config import PARTS, SLOTS
from conceptatlas.demo.text_image import MODEL_CONFIG, free_scene, shrink


@torch.no_grad()
def measure_text_image(model: nn.Module, *, n: int = 400, seed: int = 1234) -> dict[str, float]:
    """Retrieval on scenes that the model never saw.

    Returns
    -------
    dict
        ``scene_retrieval``: share of (scene, slot) pairs whose part scores highest of the slot's three;
        ``crop_retrieval``: share of tight crops of a deciding part or the tag whose best word, of the names of all
        things, holds in the crop; ``crop_exact``: the same for exactly that part's name;
        ``tag_auc``: ROC-AUC of "tag" for the tag's presence in whole scenes.
    """
    from sklearn.metrics import roc_auc_score

    tokenizer = open_clip.SimpleTokenizer(context_length=MODEL_CONFIG["text_cfg"]["context_length"])
    names = part_words()
    words = torch.stack([_word(model, tokenizer, name) for name in names])
    first = {name: all_phrases().index(name) for name in names}
    scene_hits, crop_hits, exact_hits, tags, tag_scores = [], [], [], [], []
    for index in range(n):
        scene = free_scene(index, seed)
        things = [name for name in scene.parts if name in PARTS or name == "tag"]
        boxes = [(0, 0, *scene.image.size), *(_box_around(scene.parts[name]) for name in things)]
        features = model.encode_image(  # type: ignore[operator]
            to_tensor(np.stack([shrink(scene.image, box) for box in boxes])), normalize=True
        )
        scores = (features @ words.T).numpy()
        tags.append("tag" in scene.parts)
        tag_scores.append(scores[0, names.index("tag")])
        for slot in SLOTS.values():
            group = [part.name for part in slot]
            shown = [name for name in group if name in things]
            if shown:
                scene_hits.append(group[int(np.argmax([scores[0, names.index(name)] for name in group]))] == shown[0])
        for row, (thing, box) in enumerate(zip(things, boxes[1:], strict=True), start=1):
            best = names[int(np.argmax(scores[row]))]
            exact_hits.append(best == thing)
            crop_hits.append(bool(words_in_crop(scene, box)[0][first[best]]))
    return {
        "scene_retrieval": float(np.mean(scene_hits)),
        "crop_retrieval": float(np.mean(crop_hits)),
        "crop_exact": float(np.mean(exact_hits)),
        "tag_auc": float(roc_auc_score(tags, tag_scores)),
    }


def _word(model: nn.Module, tokenizer: Any, name: str) -> torch.Tensor:
    """Embedding of a word: the mean over templates, normalised."""
    templates = ("a photo of a {}", "a close-up photo of {}", "a cropped photo of {}", "{} texture", "{}")
    embeddings: torch.Tensor = model.encode_text(tokenizer([t.format(name) for t in templates]), normalize=True)  # type: ignore[operator]
    return nn.functional.normalize(embeddings.mean(0), dim=0)


def _box_around(mask: NDArray[np.bool_]) -> Box:
    """The square around a mask, a tenth wider."""
    rows, columns = np.nonzero(mask)
    side = min(int(1.1 * max(np.ptp(rows), np.ptp(columns))) + 3, min(mask.shape))
    left = int(np.clip((columns.min() + columns.max() + 1 - side) / 2, 0, mask.shape[1] - side))
    top = int(np.clip((rows.min() + rows.max() + 1 - side) / 2, 0, mask.shape[0] - side))
    return (left, top, left + side, top + side)
