"""The embedded default: planted scenes with ground truth, and small trained models that see them."""

from conceptatlas.demo.captions import captions, part_words, words_in_crop
from conceptatlas.demo.config import (
    BACKGROUNDS,
    DISTRACTORS,
    PARTS,
    SHORTCUT_KINDS,
    SLOTS,
    Part,
    SceneConfig,
    Shortcut,
    ShortcutKind,
    Split,
)
from conceptatlas.demo.folders import contact_sheet, read_masks, write_folder
from conceptatlas.demo.models import (
    demo_card,
    demo_class_names,
    demo_config,
    demo_encoder_path,
    demo_models,
    demo_vocabulary,
    load_demo_model,
    write_demo_images,
)
from conceptatlas.demo.planting import (
    Planted,
    PlantedSet,
    central_box,
    draw_plan,
    plant_on_photograph,
    plant_on_photographs,
)
from conceptatlas.demo.probing import linear_probe
from conceptatlas.demo.scenes import Scene, make_scene
from conceptatlas.demo.splits import SceneSpec, SceneSplit, make_split

__all__ = [
    "BACKGROUNDS",
    "DISTRACTORS",
    "PARTS",
    "SHORTCUT_KINDS",
    "SLOTS",
    "Part",
    "Planted",
    "PlantedSet",
    "Scene",
    "SceneConfig",
    "SceneSpec",
    "SceneSplit",
    "Shortcut",
    "ShortcutKind",
    "Split",
    "captions",
    "central_box",
    "contact_sheet",
    "demo_card",
    "demo_class_names",
    "demo_config",
    "demo_encoder_path",
    "demo_models",
    "demo_vocabulary",
    "draw_plan",
    "linear_probe",
    "load_demo_model",
    "make_scene",
    "make_split",
    "part_words",
    "plant_on_photograph",
    "plant_on_photographs",
    "read_masks",
    "words_in_crop",
    "write_demo_images",
    "write_folder",
]
