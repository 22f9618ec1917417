"""The rules of naming: what a word must show before a concept bears it, and what becomes of it otherwise."""

from __future__ import annotations

from dataclasses import dataclass, replace

from conceptatlas.concepts.names import Name, NameStatus


@dataclass(frozen=True)
class NamingRules:
    """What a word must show before a concept bears it. The defaults are the measured best of ``benchmarks/naming.py``.

    Parameters
    ----------
    score : str
        The score that ranks the words, one of `SCORES`.
    support : tuple of str
        The scores that are asked whether they agree with it.
    agreement : int
        How many of `support` must put the word, or a near-synonym, on top for ``named``.
    named_auc, weak_auc : float
        The least held-out AUC for ``named`` and for ``weak``.
    alpha, weak_alpha : float
        The greatest p, against random regions and against words that mean nothing, for ``named`` and for ``weak``.
    draws : int
        Draws of random regions for that p.
    synonym_cosine : float
        Words whose embeddings are nearer than this are one word.
    rivalry : float
        Share of a word's best score for another concept of the class that is taken off its score.
    max_words : int
        The most words in a name.
    word_gain : float
        How much AUC a further word must add, on the half that chooses.
    min_regions : int
        The least number of regions with the concept, and without, in each half.

    Examples
    --------
    >>> NamingRules(max_words=1).named_auc
    0.9
    """

    score: str = "contrast"
    support: tuple[str, ...] = ("contrast", "correlation", "raw_mean")
    agreement: int = 2
    named_auc: float = 0.9
    weak_auc: float = 0.7
    alpha: float = 0.01
    weak_alpha: float = 0.05
    draws: int = 200
    synonym_cosine: float = 0.9
    rivalry: float = 0.5
    max_words: int = 3
    word_gain: float = 0.03
    min_regions: int = 3


def judge_name(name: Name, rules: NamingRules) -> Name:
    """The name with the status and the reason that its numbers earn; without its words where that is ``unnamed``.

    Examples
    --------
    >>> evidence = {"score": 0.1, "p_null": 0.005, "margin": 0.02, "heldout_auc": 0.95, "coherence": 0.1}
    >>> judge_name(Name(("tag",), "weak", **evidence, agreement=3), NamingRules()).status
    'named'
    """
    least = [
        (name.score > 0, "no word tells its regions from the others"),
        (name.heldout_auc >= rules.weak_auc, f"held-out AUC {name.heldout_auc:.2f} is below {rules.weak_auc:g}"),
        (name.p_null <= rules.weak_alpha, f"p {name.p_null:.3g} is above {rules.weak_alpha:g}"),
    ]
    full = [
        (name.heldout_auc >= rules.named_auc, f"held-out AUC {name.heldout_auc:.2f} is below {rules.named_auc:g}"),
        (name.p_null < rules.alpha, f"p {name.p_null:.3g} is not below {rules.alpha:g}"),
        (name.coherence > 0, "its regions are no more alike than random ones"),
        (name.agreement >= rules.agreement, f"{name.agreement} of {len(rules.support)} scores agree on the word"),
        (name.margin > 0, "too few other words to set it against"),
    ]
    missing = [reason for passed, reason in least if not passed]
    short = [reason for passed, reason in full if not passed]
    status: NameStatus = "unnamed" if missing else "weak" if short else "named"
    words = () if missing else name.words
    return replace(name, status=status, words=words, reason="; ".join(missing or short))
