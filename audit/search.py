"""Search by text: which concepts, over all classes, have crops that answer to some words.

A concept's contrast is the mean embedding of the image regions that hold it minus that of the regions of the same class
that do not; its dot product with a word's embedding is the word's score, the same as in naming (Eyuboglu et al.,
ICLR 2022). The contrasts are kept by the banks, so that a search embeds the words alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from conceptatlas.concepts import OpenClipEncoder, TextImageEncoder, check_encoder, embed_words
from conceptatlas.extraction.errors import UserError

if TYPE_CHECKING:
    from conceptatlas.audit.atlas import Atlas, ClassAtlas

COLUMNS = ["class", "concept", "label", "score", "z", "importance", "place_known", "views", "map_rows"]


def search(
    atlas: Atlas, words: str | Sequence[str], *, encoder: TextImageEncoder | str | None = None, most: int = 20
) -> pd.DataFrame:
    """Return the concepts of all classes whose crops answer to some words, best first.

    Parameters
    ----------
    atlas
        An atlas whose audit had a text-image encoder.
    words
        A word or a phrase; of several, a concept's score is that of the one it answers to best.
    encoder
        The encoder of the audit, or its open_clip name; None takes the name that the run recorded.
    most
        Rows returned.

    Returns
    -------
    DataFrame
        ``class, concept, label``; ``score`` (mean cosine with the regions that hold the concept minus that with those
        that do not, in [-2, 2]); ``z`` (how far the score stands above those of all concepts of the atlas, in standard
        deviations: about 0 where nothing answers); ``importance, place_known``; ``views`` (stored views of its crops,
        strongest first, for ``atlas.view``) and ``map_rows`` (their maps, rows of ``atlas[class].maps``).

    Raises
    ------
    UserError
        Where the audit had no encoder, or another one than given.
    """
    asked = [words] if isinstance(words, str) else list(words)
    if not asked or not all(isinstance(word, str) and word.strip() for word in asked):
        raise UserError(f"a search needs words, not {words!r}")
    T = embed_words(_encoder(atlas, encoder), asked)
    frames = [_class_rows(atlas[name], T) for name in atlas if atlas[name].bank.embeddings is not None]
    if not frames:
        raise UserError("no concept of this atlas was embedded; audit again with encoder= to search by text")
    found = pd.concat(frames, ignore_index=True)
    spread = float(found["score"].std(ddof=0))
    found["z"] = (found["score"] - found["score"].mean()) / spread if spread > 0 else 0.0
    return found.sort_values("score", ascending=False, kind="stable", ignore_index=True)[COLUMNS].head(most)


def _encoder(atlas: Atlas, given: TextImageEncoder | str | None) -> TextImageEncoder:
    names: dict[str, Any] = atlas.run.get("names") or {}
    used, source = names.get("encoder"), names.get("source")
    if used is None:
        raise UserError("this atlas was made without a text-image encoder; audit again with encoder= to search by text")
    if given is None and source is None:
        raise UserError(f"give the encoder of the audit ({used}) with encoder=")
    chosen = given if given is not None else str(source)
    encoder = OpenClipEncoder(chosen) if isinstance(chosen, str) else check_encoder(chosen)
    if encoder.id != used:
        raise UserError(f"the concepts were embedded by {used}, and {encoder.id} has another space; give that encoder")
    return encoder


def _class_rows(member: ClassAtlas, T: np.ndarray) -> pd.DataFrame:
    bank = member.bank
    scores = (np.asarray(bank.embeddings, dtype=np.float32) @ T.T).max(axis=1)
    by_concept = member.concepts.set_index("concept")
    crops = dict(tuple(member.examples.sort_values("rank").groupby("concept"))) if len(member.examples) else {}
    rows = []
    for record, score in zip(bank.concepts, scores, strict=True):
        shown = crops.get(record.id)
        rows.append(
            {
                "class": member.name,
                "concept": record.id,
                "label": record.label,
                "score": float(score),
                "importance": by_concept["importance"].get(record.id, np.nan),
                "place_known": bool(by_concept["place_known"].get(record.id, False)),
                "views": [] if shown is None else list(shown["view"]),
                "map_rows": [] if shown is None else [int(i) for i in shown["map_row"]],
            }
        )
    return pd.DataFrame(rows)
