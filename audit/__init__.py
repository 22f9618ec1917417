"""Whole-dataset questions: the audit, its atlas, strategies, slices, suspected shortcuts and what to do about them."""

import sys
from types import ModuleType

from conceptatlas.audit.atlas import Atlas, ClassAtlas
from conceptatlas.audit.comparison import Comparison, compare
from conceptatlas.audit.context import Settings
from conceptatlas.audit.interventions import BeforeAfter, EditedModel, before_after, load_edited
from conceptatlas.audit.masking import mask_with_map
from conceptatlas.audit.pipeline import audit, audit_shard
from conceptatlas.audit.refit import refit_last_layer
from conceptatlas.audit.slice_words import Word, bias_words
from conceptatlas.audit.slices import Slices, find_slices
from conceptatlas.audit.strategies import Strategies, find_strategies
from conceptatlas.audit.wide import ImageWide, wide_of
from conceptatlas.audit.workbench import reopen

__all__ = [
    "Atlas",
    "BeforeAfter",
    "ClassAtlas",
    "Comparison",
    "EditedModel",
    "ImageWide",
    "Settings",
    "Slices",
    "Strategies",
    "Word",
    "audit",
    "audit_shard",
    "before_after",
    "bias_words",
    "compare",
    "find_slices",
    "find_strategies",
    "load_edited",
    "mask_with_map",
    "refit_last_layer",
    "reopen",
    "wide_of",
]


class _CallablePackage(ModuleType):
    """`conceptatlas.audit` is both this package and the function that users call: let the package be callable."""

    __call__ = staticmethod(audit)


sys.modules[__name__].__class__ = _CallablePackage
