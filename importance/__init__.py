"""What concepts do to the prediction, and where."""

from conceptatlas.importance.ablation import ablate, ablate_features, project, project_features
from conceptatlas.importance.cams import class_maps, class_weighted_map, eigen_cam
from conceptatlas.importance.contributions import Contributions, contributions
from conceptatlas.importance.counterfactuals import Counterfactual, counterfactual
from conceptatlas.importance.daam import concept_flow, daam
from conceptatlas.importance.designs import design
from conceptatlas.importance.faithfulness import Faithfulness, FaithfulnessRow, c_deletion, c_insertion, c_mufidelity
from conceptatlas.importance.foreground import foreground_masks, foreground_share
from conceptatlas.importance.grounding import (
    average_precision,
    energy_in_mask,
    energy_ratio,
    iou,
    peak_of,
    pointing_chance,
    pointing_game,
)
from conceptatlas.importance.localisation import MapChoice, choose_map
from conceptatlas.importance.maps import (
    concept_maps,
    map_methods,
    map_scale,
    outline_level,
    paired_maps,
    peak,
    upsample,
)
from conceptatlas.importance.shares import ConceptImportance, Shares, concept_importance, pooled, signed_shares
from conceptatlas.importance.sobol import SobolIndices, total_sobol
from conceptatlas.importance.surf import Surf, surf
from conceptatlas.importance.targets import Target, as_target, logit, margin, similarity
from conceptatlas.importance.tcav import Tcav, tcav

__all__ = [
    "ConceptImportance",
    "Contributions",
    "Counterfactual",
    "Faithfulness",
    "FaithfulnessRow",
    "MapChoice",
    "Shares",
    "SobolIndices",
    "Surf",
    "Target",
    "Tcav",
    "ablate",
    "ablate_features",
    "as_target",
    "average_precision",
    "c_deletion",
    "c_insertion",
    "c_mufidelity",
    "choose_map",
    "class_maps",
    "class_weighted_map",
    "concept_flow",
    "concept_importance",
    "concept_maps",
    "contributions",
    "counterfactual",
    "daam",
    "design",
    "eigen_cam",
    "energy_in_mask",
    "energy_ratio",
    "foreground_masks",
    "foreground_share",
    "iou",
    "logit",
    "map_methods",
    "map_scale",
    "margin",
    "outline_level",
    "paired_maps",
    "peak",
    "peak_of",
    "pointing_chance",
    "pointing_game",
    "pooled",
    "project",
    "project_features",
    "signed_shares",
    "similarity",
    "surf",
    "tcav",
    "total_sobol",
    "upsample",
]
