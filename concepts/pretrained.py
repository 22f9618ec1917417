"""Which trained weights a name of open_clip stands for, and what to do where they cannot be had.

Three traps are closed here. Without weights open_clip only logs a line and goes on at random. A plain name with a file
of weights gets default preprocessing, whatever the weights were trained with (SigLIP). And weights trained with
QuickGELU run, badly, in the model of the same name that uses GELU.
"""

from __future__ import annotations

import difflib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conceptatlas.extraction.errors import CheckpointError, UserError

_LOG = logging.getLogger(__name__)
DEFAULT_TAGS = {"ViT-B-32": "datacomp_xl_s13b_b90k"}
"""The tag that a plain name stands for when none is given."""
_QUICK = ("openai", "metaclip", "dfn")
_PREPROCESS = ("mean", "std", "interpolation", "resize_mode")
_OFFLINE = (
    'without a network, give weights that are on this machine: "local-dir:/folder" with open_clip_config.json and '
    "open_clip_model.safetensors in it (any open_clip repository of the Hugging Face Hub, downloaded elsewhere)"
)


_NOT_THERE = {"RepositoryNotFoundError", "RemoteEntryNotFoundError", "RevisionNotFoundError", "GatedRepoError"}


class WeightsUnreachable(CheckpointError):
    """Weights that a network would bring, and none did: the name may be right, and another day it will do."""


@dataclass(frozen=True)
class Source:
    """What open_clip is asked for: model name, weights, and the overrides that make the two fit.

    Examples
    --------
    >>> resolve_source("ViT-B-32", None, None).pretrained
    'datacomp_xl_s13b_b90k'
    """

    name: str
    pretrained: str | None
    label: str
    quick_gelu: bool = False
    preprocess: dict[str, Any] | None = None

    @property
    def is_local(self) -> bool:
        """Whether no network is needed."""
        return self.name.startswith("local-dir:") or bool(self.pretrained and Path(self.pretrained).is_file())

    def failure(self, error: Exception) -> UserError:
        """What to raise: one sentence that says what could not be loaded, why, and what to do.

        `WeightsUnreachable` where the weights are elsewhere and did not come.
        """
        cause = " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
        if self.is_local:
            advice = "check that the weights belong to this model and that the file is whole"
        else:
            advice = f"check the name; {_OFFLINE}"
        kind = CheckpointError if self.is_local or _refused(error) else WeightsUnreachable
        return kind(f"The text-image model {self.label!r} could not be loaded ({cause}); {advice}.")


def _refused(error: BaseException | None) -> bool:
    """Whether the hub was reached and has no such thing."""
    while error is not None:
        if type(error).__name__ in _NOT_THERE:
            return True
        error = error.__cause__ or error.__context__
    return False


def resolve_source(name: str, pretrained: str | Path | None, quick_gelu: bool | None) -> Source:
    """What to ask open_clip for.

    Raises
    ------
    UserError
        Where the name, tag, folder or file is not there, or does not say which weights are meant.
    """
    if name.startswith("local-dir:"):
        _no_pretrained(name, pretrained)
        return _local_folder(name)
    if name.startswith("hf-hub:"):
        _no_pretrained(name, pretrained)
        return Source(name, None, name.removeprefix("hf-hub:"))
    return _named_model(name, None if pretrained is None else str(pretrained), quick_gelu)


def _no_pretrained(name: str, pretrained: str | Path | None) -> None:
    if pretrained is not None:
        raise UserError(f"{name!r} brings its own weights, so pretrained={str(pretrained)!r} must be left out.")


def _local_folder(name: str) -> Source:
    folder = Path(name.removeprefix("local-dir:")).expanduser()
    needs = "give a folder with open_clip_config.json and open_clip_model.safetensors"
    if not folder.is_dir():
        raise CheckpointError(f"There is no folder {folder} for the text-image model; {needs}.")
    config = folder / "open_clip_config.json"
    found = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
    if not config.is_file():
        raise CheckpointError(f"{folder} is no open_clip model: it holds {found}; {needs}.")
    try:
        known = "model_cfg" in json.loads(config.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{config} cannot be read ({error}); download it again.") from error
    if not known:
        raise CheckpointError(f"{config} has no model_cfg; it is not the configuration of an open_clip model.")
    if not any(path.suffix in {".safetensors", ".bin", ".pt", ".pth"} for path in folder.iterdir()):
        raise CheckpointError(f"{folder} has no weights, only {found}; {needs}. Random weights are never used.")
    return Source(f"local-dir:{folder}", None, folder.name)


def _named_model(name: str, pretrained: str | None, quick_gelu: bool | None) -> Source:
    import open_clip

    known = open_clip.list_models()
    if name not in known:
        near = ", ".join(difflib.get_close_matches(name, known, n=4, cutoff=0.4))
        raise UserError(f"open_clip has no model {name!r}" + (f"; near it are {near}." if near else "."))
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained is None:
        pretrained = DEFAULT_TAGS.get(name)
    if pretrained is None:
        raise UserError(f"{name!r} needs pretrained=, one of {', '.join(tags) or 'no tags'} or a file of weights.")
    if pretrained in tags:
        return _tagged(name, pretrained, quick_gelu)
    if Path(pretrained).is_dir():
        raise CheckpointError(f"{pretrained} is a folder; give it as the name: 'local-dir:{pretrained}'.")
    if not Path(pretrained).is_file():
        raise CheckpointError(f"There are no weights {pretrained!r}: no such file, and {name!r} has the tags {tags}.")
    return _file(name, pretrained, tags, quick_gelu)


def _tagged(name: str, tag: str, quick_gelu: bool | None) -> Source:
    import open_clip

    trained = bool(open_clip.get_pretrained_cfg(name, tag).get("quick_gelu", False))
    return Source(name, tag, f"{name}/{tag}", quick_gelu=trained if quick_gelu is None else quick_gelu)


def _file(name: str, file: str, tags: list[str], quick_gelu: bool | None) -> Source:
    import open_clip

    configs = [open_clip.get_pretrained_cfg(name, tag) for tag in tags]
    settings = {json.dumps({key: config.get(key) for key in _PREPROCESS}) for config in configs}
    preprocess = json.loads(settings.pop()) if len(settings) == 1 else None
    if settings:
        _LOG.warning("weights of %s differ in preprocessing; the default is used; a local-dir: brings its own", name)
    if quick_gelu is None:
        quick_gelu = any(word in Path(file).name.lower() for word in _QUICK)
        if not quick_gelu and any(config.get("quick_gelu") for config in configs) and not name.endswith("-quickgelu"):
            _LOG.warning("%s is taken to be trained without QuickGELU; if it was, pass quick_gelu=True", file)
    return Source(name, file, f"{name}/{Path(file).stem}", quick_gelu=quick_gelu, preprocess=preprocess)
