"""Images to activations: reading images, splitting a model, running it, and the store of what it computed."""

from conceptatlas.extraction.artefacts import artefact_positions
from conceptatlas.extraction.checkpoints import load_weights, read_checkpoint
from conceptatlas.extraction.crops import CropSpec, cut_crops, position_boxes
from conceptatlas.extraction.cutpoints import CutPoint, cut_points
from conceptatlas.extraction.datasets import DatasetSource
from conceptatlas.extraction.decode import decode_image
from conceptatlas.extraction.errors import (
    CheckpointError,
    ImageError,
    LayerError,
    SourceError,
    StoreError,
    UserError,
)
from conceptatlas.extraction.extract import ExtractionResult, extract
from conceptatlas.extraction.features import Features
from conceptatlas.extraction.folders import FolderSource, duplicate_files
from conceptatlas.extraction.labels import class_names_of, class_synonyms_of, match_labels
from conceptatlas.extraction.manifest import Skipped
from conceptatlas.extraction.merging import merge
from conceptatlas.extraction.models import (
    check_class_head,
    choose_device,
    load_model,
    model_id,
    weight_digest,
)
from conceptatlas.extraction.parts import parse_shard
from conceptatlas.extraction.pools import RayEngine
from conceptatlas.extraction.preprocess import Preprocess
from conceptatlas.extraction.samples import ImageSource, Sample
from conceptatlas.extraction.sources import ListSource, as_source
from conceptatlas.extraction.split import SplitModel, split
from conceptatlas.extraction.store import ActivationStore, has_store
from conceptatlas.extraction.transforms import CallablePreprocess, as_preprocess

__all__ = [
    "ActivationStore",
    "CallablePreprocess",
    "CheckpointError",
    "CropSpec",
    "CutPoint",
    "DatasetSource",
    "ExtractionResult",
    "Features",
    "FolderSource",
    "ImageError",
    "ImageSource",
    "LayerError",
    "ListSource",
    "Preprocess",
    "RayEngine",
    "Sample",
    "Skipped",
    "SourceError",
    "SplitModel",
    "StoreError",
    "UserError",
    "artefact_positions",
    "as_preprocess",
    "as_source",
    "check_class_head",
    "choose_device",
    "class_names_of",
    "class_synonyms_of",
    "cut_crops",
    "cut_points",
    "decode_image",
    "duplicate_files",
    "extract",
    "has_store",
    "load_model",
    "load_weights",
    "match_labels",
    "merge",
    "model_id",
    "parse_shard",
    "position_boxes",
    "read_checkpoint",
    "split",
    "weight_digest",
]
