"""All that a person looks at, drawn from a saved atlas: figures, overlays, sentences, and the static site."""

from conceptatlas.viz.bars import importance_bars, waterfall
from conceptatlas.viz.curves import choice_curve, faithfulness_curves
from conceptatlas.viz.flow import layer_flow
from conceptatlas.viz.network import concept_graph
from conceptatlas.viz.overlays import crop, outline, overlay
from conceptatlas.viz.reliability import prevalence_reliability
from conceptatlas.viz.report import bias_report
from conceptatlas.viz.site import export_site
from conceptatlas.viz.strategies import strategic_cluster_graph
from conceptatlas.viz.verbalise import describe_class, describe_image, describe_shortcut

__all__ = [
    "bias_report",
    "choice_curve",
    "concept_graph",
    "crop",
    "describe_class",
    "describe_image",
    "describe_shortcut",
    "export_site",
    "faithfulness_curves",
    "importance_bars",
    "layer_flow",
    "outline",
    "overlay",
    "prevalence_reliability",
    "strategic_cluster_graph",
    "waterfall",
]
