"""Concept-based explanation of vision models: audit a model on a folder of images and get an atlas of its concepts.

>>> import conceptatlas as ca
>>> atlas = ca.audit("resnet18", "photographs/", out="runs/first")      # doctest: +SKIP
>>> atlas.shortcuts().head()                                            # doctest: +SKIP
>>> ca.export_site(atlas, "site/")                                      # doctest: +SKIP
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

# In a checkout that is not installed, the sub-packages lie beside this folder, not in it:
# let `conceptatlas.extraction` and its siblings be found at the repository's root.
_root = Path(__file__).resolve().parent.parent
if _root.joinpath("pyproject.toml").is_file() and str(_root) not in __path__:
    __path__.append(str(_root))

__version__ = "0.1.0"

# Name -> the package that holds it. Loaded on first use: `import conceptatlas` and `conceptatlas --help` need no torch.
_HOMES = {
    "audit": "audit",
    "Atlas": "audit",
    "ClassAtlas": "audit",
    "compare": "audit",
    "split": "extraction",
    "cut_points": "extraction",
    "export_site": "viz",
    "bias_report": "viz",
    "strategic_cluster_graph": "viz",
}

__all__ = [
    "__version__",
    "audit",
    "Atlas",
    "ClassAtlas",
    "compare",
    "split",
    "cut_points",
    "export_site",
    "bias_report",
    "strategic_cluster_graph",
]

if TYPE_CHECKING:
    from conceptatlas.audit import Atlas, ClassAtlas, audit, compare
    from conceptatlas.extraction import cut_points, split
    from conceptatlas.viz import bias_report, export_site, strategic_cluster_graph


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'conceptatlas' has no attribute {name!r}")
    module = import_module(f"conceptatlas.{_HOMES[name]}")
    return module if name == "audit" else getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
